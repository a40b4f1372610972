"""Fixtures that several test folders share."""

import os

# Before TensorFlow is imported: tests run in Keras 2 unless TF_USE_LEGACY_KERAS says otherwise.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
