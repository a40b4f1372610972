"""Trains several models on the same data, and says how they compare."""
