"""Adagrad with an accumulator for every row."""

import dataclasses

import tensorflow as tf

from tf_dlrm.embeddings.optimizers.optimizer import Optimizer, Slots, SlotSpec, Updated


@dataclasses.dataclass(frozen=True)
class RowWiseAdagrad(Optimizer):
    """Adagrad with one accumulator per row: accumulator += mean over the columns of g^2.

    Attributes:
        initial_accumulator: First value of the accumulator.
        epsilon: Added outside the root.
    """

    initial_accumulator: float = 0.0
    epsilon: float = 1e-10
    native = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_at_least_zero("initial_accumulator", "epsilon")

    @property
    def slots(self) -> tuple[SlotSpec, ...]:
        """One accumulator per row."""
        return (SlotSpec("accumulator", True, self.initial_accumulator),)

    def rule(self, row: tf.Tensor, slots: Slots, gradient: tf.Tensor, rate: tf.Tensor) -> Updated:
        """See `Optimizer.rule`."""
        total = slots["accumulator"] + tf.reduce_mean(tf.square(gradient), 1, keepdims=True)
        factor = rate / (tf.sqrt(total) + self.epsilon)
        return row - factor * gradient, {"accumulator": total}
