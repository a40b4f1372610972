"""One file for each way to place tables."""
