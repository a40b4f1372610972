"""Training on one device."""

from __future__ import annotations

import tensorflow as tf

from tf_dlrm.training.distribution.distribution import Distribution


class OneDevice(Distribution):
    """All of the model on the first GPU, or on the CPU."""

    def make_strategy(self) -> tf.distribute.Strategy:
        """See `Distribution.make_strategy`: TensorFlow's default one."""
        return tf.distribute.get_strategy()
