"""A native CPU kernel: the dot products of pairs of vectors, forward and backward."""
