"""What is asked of a store, and the gradients that come back to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tf_dlrm.embeddings.bags import Bags
from tf_dlrm.embeddings.block import StackedFeature
from tf_dlrm.embeddings.pooling import StackBatch
from tf_dlrm.embeddings.stack import Stack


class Asked(NamedTuple):
    """Some features of one stack, in one lookup.

    Attributes:
        stack: The stack.
        features: The features.
        bags: Their bags by name.
        batch: Their ids laid out as rows of the stack; None where the store pools the bags itself.
    """

    stack: Stack
    features: Sequence[StackedFeature]
    bags: Mapping[str, Bags]
    batch: StackBatch | None

    @classmethod
    def by_rows(
        cls,
        stack: Stack,
        features: Sequence[StackedFeature],
        bags: Mapping[str, Bags],
        axis: int = 0,
    ) -> Asked:
        """Asks for rows, which `batch` pools; for `axis` see there."""
        return cls(stack, features, bags, StackBatch(features, bags, stack.rows, stack.dim, axis))

    @property
    def ids(self) -> tf.Tensor:
        """The rows of `batch`, int32 or int64 [n]; None where the store pools."""
        return self.batch and self.batch.ids


class Used(NamedTuple):
    """What came back to it.

    Attributes:
        asked: What was asked.
        gradients: Of those of the features whose vectors were used, the gradient [batch, dim].
        residual: What `read` returned beside the rows or vectors.
    """

    asked: Asked
    gradients: Mapping[str, tf.Tensor]
    residual: Any

    @property
    def is_whole(self) -> bool:
        """Whether all of the features were used."""
        return len(self.gradients) == len(self.asked.features)

    def of_rows(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the rows [n] that were used, with repetitions, and their gradients [n, dim]."""
        stack, features, bags, batch = self.asked
        if batch is None or not self.is_whole:
            features = [f for f in features if f.name in self.gradients]
            batch = StackBatch(features, bags, stack.rows, stack.dim)
        return batch.ids, batch.unpool(self.gradients)


def joined(rows: Sequence[tuple[tf.Tensor, tf.Tensor]]) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns rows of one stack [n], and their gradients [n, dim], one after the other."""
    if len(rows) == 1:
        return rows[0]
    dtype = tf.int64 if any(ids.dtype == tf.int64 for ids, _ in rows) else tf.int32
    ids = tf.concat([tf.cast(ids, dtype) for ids, _ in rows], 0)
    return ids, tf.concat([gradients for _, gradients in rows], 0)


def none_unless(finite: tf.Tensor, *values: tf.Tensor) -> list[tf.Tensor]:
    """Returns tensors as they are, or without any of their rows where `finite` is false."""
    count = tf.where(finite, tf.shape(values[0])[0], 0)
    return [value[:count] for value in values]
