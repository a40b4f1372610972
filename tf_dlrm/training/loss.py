"""The loss that training minimises."""

from __future__ import annotations

import dataclasses

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class CrossEntropy:
    """Sigmoid cross-entropy from logits, each row times the weight of its label.

    As in the paper's code, the mean over a batch divides by its rows, whatever their weights.

    Attributes:
        negative_weight: Weight of rows with the label 0.
        positive_weight: Weight of rows with the label 1.
    """

    negative_weight: float = 1.0
    positive_weight: float = 1.0

    def __call__(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Returns the loss of each row, of the common shape of labels and logits."""
        losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits)
        if self.negative_weight == self.positive_weight == 1.0:
            return losses
        weights = labels * self.positive_weight + (1.0 - labels) * self.negative_weight
        return losses * weights


# That of the paper.
CROSS_ENTROPY = CrossEntropy()
