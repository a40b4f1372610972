"""Adagrad with an accumulator for every row."""

import dataclasses

import tensorflow as tf

from tf_dlrm.embeddings.optimizers.adagrad import Adagrad
from tf_dlrm.embeddings.optimizers.optimizer import Slots, SlotSpec, Updated


@dataclasses.dataclass(frozen=True)
class RowWiseAdagrad(Adagrad):
    """Adagrad with one accumulator per row: accumulator += mean over the columns of g^2."""

    native = True

    @property
    def slots(self) -> tuple[SlotSpec, ...]:
        """One accumulator per row."""
        return (SlotSpec("accumulator", True, self.initial_accumulator),)

    def rule(self, row: tf.Tensor, slots: Slots, gradient: tf.Tensor, rate: tf.Tensor) -> Updated:
        """See `Optimizer.rule`."""
        total = slots["accumulator"] + tf.reduce_mean(tf.square(gradient), 1, keepdims=True)
        factor = rate / (tf.sqrt(total) + self.epsilon)
        return row - factor * gradient, {"accumulator": total}
