"""ResumableDropout: dropout whose masks a resumed training run draws again."""

from typing import Any

import tensorflow as tf

from tf_dlrm.keras_api import keras, uses_legacy_keras
from tfrecords.tracing import traced_as_written


@keras.saving.register_keras_serializable(package="tf_dlrm")
class ResumableDropout(keras.layers.Dropout):
    """Dropout whose mask is a function of the seed and of the number of training calls so far.

    That number is a weight, so checkpoints hold it, and training that resumes from one drops what
    an uninterrupted run drops. (Keras 2's own dropout begins anew in each process.) Under a
    strategy every replica has masks of its own, so with dropout, and only then, what is learnt
    depends on the number of replicas.

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
            name="calls",
            shape=(),
            dtype="int64",
            initializer="zeros",
            trainable=False,
            # All replicas count the same.
            aggregation="only_first_replica"
            if not uses_legacy_keras()
            else tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )
        self.built = True

    @traced_as_written
    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Returns the inputs, while training with some of them dropped."""
        if not training:
            return inputs
        count = tf.convert_to_tensor(self.calls)
        self.calls.assign_add(tf.ones_like(count))
        # Another mask on each replica of a strategy, whose rows are others too.
        context = tf.distribute.get_replica_context()
        replica = tf.cast(context.replica_id_in_sync_group, tf.int64) if context else 0
        seed = tf.stack([self.seed + replica * 2**32, count])
        return tf.nn.experimental.stateless_dropout(inputs, rate=self.rate, seed=seed)
