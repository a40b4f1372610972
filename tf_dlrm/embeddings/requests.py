"""What is asked of a store: rows, or whole bags, and what their gradients are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tf_dlrm.embeddings.bags import Bags
from tf_dlrm.embeddings.block import StackedFeature
from tf_dlrm.embeddings.pooling import StackBatch
from tf_dlrm.embeddings.stack import Stack


class RowIds(NamedTuple):
    """Rows of a stack, int32 or int64 [n], with repetitions."""

    stack: Stack
    ids: tf.Tensor


class RowGradients(NamedTuple):
    """Rows of a stack [n], with repetitions, and their gradients, float32 [n, dim].

    `residual` is what `read` returned beside these rows; None where they were not read together.
    """

    stack: Stack
    ids: tf.Tensor
    gradients: tf.Tensor
    residual: Any = None


class StoreBags(NamedTuple):
    """Bags of features of a stack that the store pools itself."""

    stack: Stack
    features: Sequence[StackedFeature]
    bags: Mapping[str, Bags]


class StoreGradients(NamedTuple):
    """Gradients [batch, dim] of such bags by feature, and what `read` returned beside them."""

    stack: Stack
    features: Sequence[StackedFeature]
    bags: Mapping[str, Bags]
    gradients: Mapping[str, tf.Tensor]
    residual: Any

    def of_rows(self) -> RowGradients:
        """Returns the rows of the bags that were used, and their gradients."""
        used = [f for f in self.features if f.name in self.gradients]
        batch = StackBatch(used, self.bags, self.stack.rows, self.stack.dim)
        return RowGradients(self.stack, batch.ids, batch.unpool(self.gradients))


def joined(rows: Sequence[RowGradients]) -> RowGradients:
    """Returns rows of one stack, and their gradients, one after the other."""
    if len(rows) == 1:
        return rows[0]
    dtype = tf.int64 if any(own.ids.dtype == tf.int64 for own in rows) else tf.int32
    ids = tf.concat([tf.cast(own.ids, dtype) for own in rows], 0)
    return RowGradients(rows[0].stack, ids, tf.concat([own.gradients for own in rows], 0))


def none_unless(finite: tf.Tensor, *values: tf.Tensor) -> list[tf.Tensor]:
    """Returns tensors as they are, or without any of their rows where `finite` is false."""
    count = tf.where(finite, tf.shape(values[0])[0], 0)
    return [value[:count] for value in values]
