"""ResumableDropout: dropout whose masks a resumed training run draws again."""

from typing import Any

import tensorflow as tf

from tf_dlrm.keras_api import keras


@keras.saving.register_keras_serializable(package="tf_dlrm")
class ResumableDropout(keras.layers.Dropout):
    """Dropout whose mask is a function of the seed and of the number of training calls so far.

    That number is a weight, so checkpoints hold it, and training that resumes from one drops what
    an uninterrupted run drops. (Keras 2's own dropout begins anew in each process.)

    Args:
        rate: Share of the inputs that is set to 0; the others are divided by 1 - rate.
        seed: Seed of the masks.

    Example:
        >>> ResumableDropout(0.5, seed=1)(tf.ones((2, 4)), training=False).numpy().sum()
        8.0
    """

    def __init__(self, rate: float, seed: int, **kwargs: Any) -> None:
        super().__init__(rate, seed=seed, **kwargs)

    def build(self, input_shape: Any = None) -> None:
        """Creates the counter of training calls."""
        del input_shape
        self.calls = self.add_weight(
            name="calls", shape=(), dtype="int64", initializer="zeros", trainable=False
        )
        self.built = True

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Returns the inputs, while training with some of them dropped."""
        if not training:
            return inputs
        count = tf.convert_to_tensor(self.calls)
        self.calls.assign_add(tf.ones_like(count))
        seed = tf.stack([tf.constant(self.seed, tf.int64), count])
        return tf.nn.experimental.stateless_dropout(inputs, rate=self.rate, seed=seed)
