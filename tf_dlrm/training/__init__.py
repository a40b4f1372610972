"""Training: configuration, input, the loop, metrics, checkpoints and resume."""
