"""Fixtures that several test folders share."""

import os

# Before TensorFlow is imported: tests run in Keras 2 unless TF_USE_LEGACY_KERAS says otherwise.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def pytest_configure(config):
    """Makes four logical CPUs, for the tests of strategies, before anything runs on the first."""
    import tensorflow as tf

    del config
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4
    )
