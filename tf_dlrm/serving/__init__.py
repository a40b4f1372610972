"""Serving: what leaves the building as a SavedModel, and how it is read back."""
