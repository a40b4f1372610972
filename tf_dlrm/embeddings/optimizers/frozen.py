"""Tables that do not learn."""

import dataclasses
from typing import Any

import tensorflow as tf

from tf_dlrm.embeddings.optimizers.optimizer import Optimizer, Slots, Updated
from tf_dlrm.embeddings.schedules import LearningRateSchedule


@dataclasses.dataclass(frozen=True, repr=False)
class Frozen(Optimizer):
    """Rows are looked up and stay as they are.

    Attributes:
        learning_rate: 0.
    """

    learning_rate: float | LearningRateSchedule = 0.0
    native = True
    follows_rates = False

    def __post_init__(self) -> None:
        if self.learning_rate != 0.0:
            raise ValueError(f"learning_rate of Frozen must be 0, but is {self.learning_rate}.")

    def __repr__(self) -> str:
        return "Frozen()"

    def rule(self, row: tf.Tensor, slots: Slots, gradient: tf.Tensor, rate: tf.Tensor) -> Updated:
        """Returns the rows as they are."""
        return row, {}

    def apply(self, *arguments: Any, **options: Any) -> None:
        """Does nothing."""
