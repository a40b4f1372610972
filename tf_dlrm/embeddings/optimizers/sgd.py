"""Stochastic gradient descent."""

import dataclasses

import tensorflow as tf

from tf_dlrm.embeddings.optimizers.optimizer import Optimizer, Slots, Updated


@dataclasses.dataclass(frozen=True)
class SGD(Optimizer):
    """row -= learning_rate * g."""

    native = True

    def rule(self, row: tf.Tensor, slots: Slots, gradient: tf.Tensor, rate: tf.Tensor) -> Updated:
        """See `Optimizer.rule`."""
        return row - rate * gradient, {}
