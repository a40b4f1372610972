"""What the flags of the training program say."""
