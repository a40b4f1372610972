"""Adagrad with an accumulator for every element."""

import dataclasses

import tensorflow as tf

from tf_dlrm.embeddings.optimizers.optimizer import Optimizer, Slots, SlotSpec, Updated
from tf_dlrm.errors import check_at_least_zero


@dataclasses.dataclass(frozen=True)
class Adagrad(Optimizer):
    """accumulator += g^2; row -= learning_rate * g / (sqrt(accumulator) + epsilon).

    Attributes:
        initial_accumulator: First value of the accumulator; 0 as in PyTorch and the paper's code.
        epsilon: Added outside the root.

    References:
        Duchi, Hazan, Singer, JMLR 12 (2011).
    """

    initial_accumulator: float = 0.0
    epsilon: float = 1e-10
    native = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least_zero(self, "initial_accumulator", "epsilon")

    @property
    def slots(self) -> tuple[SlotSpec, ...]:
        """One accumulator per element."""
        return (SlotSpec("accumulator", False, self.initial_accumulator),)

    def rule(self, row: tf.Tensor, slots: Slots, gradient: tf.Tensor, rate: tf.Tensor) -> Updated:
        """See `Optimizer.rule`."""
        total = slots["accumulator"] + tf.square(gradient)
        return row - rate * gradient / (tf.sqrt(total) + self.epsilon), {"accumulator": total}
