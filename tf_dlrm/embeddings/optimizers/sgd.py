"""Stochastic gradient descent."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import tensorflow as tf

from tf_dlrm.embeddings.optimizers.optimizer import Optimizer, Slots


@dataclasses.dataclass(frozen=True)
class SGD(Optimizer):
    """row -= learning_rate * g."""

    native: ClassVar[bool] = True

    def rule(
        self, row: tf.Tensor, slots: Slots, gradient: tf.Tensor, rate: tf.Tensor
    ) -> tuple[tf.Tensor, Slots]:
        """See `Optimizer.rule`."""
        return row - rate * gradient, {}
