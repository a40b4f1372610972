"""Tables on a TPU: its embedding hardware, and what the host does in its place."""
