"""A backward pass through one lookup of a placement, for tests that have no layer."""


def pull(placement, lookup, gradients):
    """Updates what a lookup found, and returns the gradients of its weights."""
    from tf_dlrm.embeddings.lookup import Pulled

    of_weights = placement.weight_gradients(lookup, gradients)
    placement.update([Pulled(lookup, gradients)])
    return of_weights
