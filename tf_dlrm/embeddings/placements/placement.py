"""What every way to place tables offers to the layer above it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from tf_dlrm.embeddings.bags import Bags
from tf_dlrm.embeddings.pooling import StackBatch, StackedFeature
from tf_dlrm.embeddings.tables import TableSet


class Lookup(NamedTuple):
    """What one lookup gives.

    Attributes:
        vectors: For each feature, float32 [batch, dim].
        bags: For each feature, what was looked up.
        residuals: Whatever the placement needs to update the rows that it looked up.
    """

    vectors: dict[str, tf.Tensor]
    bags: Mapping[str, Bags]
    residuals: Any


class Pulled(NamedTuple):
    """What a backward pass brings back to one lookup.

    Attributes:
        lookup: The lookup.
        gradients: For each feature whose vectors were used, their gradient [batch, dim]. The rows
            of all other features stay as they are.
    """

    lookup: Lookup
    gradients: Mapping[str, tf.Tensor]


class Placement(Protocol):
    """Where the rows of tables are, how they are found and how they are updated.

    Attributes:
        tables: The tables as logical [vocabulary_size, dim] tensors.
        checks_ids_on_host: Whether ids are in range before they come to `lookup`, also within XLA.
    """

    tables: TableSet
    checks_ids_on_host: bool = False

    def lookup(self, bags: Mapping[str, Bags]) -> Lookup:
        """Looks up the bags of all features."""
        ...

    def weight_gradients(
        self, lookup: Lookup, gradients: Mapping[str, tf.Tensor]
    ) -> dict[str, tf.Tensor]:
        """Returns the gradients of weights, by the rows as they are before the update.

        Args:
            lookup: What `lookup` returned.
            gradients: For each feature whose vectors were used, their gradient [batch, dim].

        Returns:
            For each of these features that had weights, the gradient [n] of them.
        """
        ...

    def update(self, pulled: Sequence[Pulled]) -> None:
        """Updates the rows of lookups with the optimizers of their tables.

        The gradients of a row are summed over all lookups, then the row is updated once. Where one
        of the gradients is not finite, no row of any table is, and the update counts as a skipped
        one.

        Args:
            pulled: The lookups, and what came back to each.
        """
        ...


def all_finite(pulled: Sequence[Pulled]) -> tf.Tensor:
    """Returns a bool scalar: whether all gradients, and the weights of their bags, are finite.

    So must be the sums of their squares in float32, which optimizers keep: a gradient of 1e20
    would leave an infinity in them for good.
    """
    squares = []
    for lookup, gradients in pulled:
        for name, gradient in gradients.items():
            squares.append(tf.nn.l2_loss(gradient))  # one operation, one pass
            weights = lookup.bags[name].weights
            if weights is not None:
                squares.append(tf.nn.l2_loss(weights))
    return tf.math.is_finite(tf.add_n(squares))


def rows_and_gradients(
    pulled: Sequence[Pulled], features: Sequence[StackedFeature], rows: int, dim: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns which rows of a stack were used, and their gradients.

    Args:
        pulled: The lookups, and what came back to each, by names of `features`.
        features: All features of the stack. One of them at least was used.
        rows: Number of rows of the stack.
        dim: Columns of the stack.

    Returns:
        int32 or int64 [n], with repetitions, and float32 [n, dim].
    """
    ids, gradients = [], []
    for lookup, own in pulled:
        used = [feature for feature in features if feature.name in own]
        if used:
            batch = StackBatch(used, lookup.bags, rows, dim)
            ids.append(batch.ids)
            gradients.append(batch.unpool(own))
    if len(ids) == 1:
        return ids[0], gradients[0]
    dtype = tf.int64 if any(entry.dtype == tf.int64 for entry in ids) else tf.int32
    return tf.concat([tf.cast(entry, dtype) for entry in ids], 0), tf.concat(gradients, 0)


def none_unless(finite: tf.Tensor, *values: tf.Tensor) -> list[tf.Tensor]:
    """Returns tensors as they are, or without any of their rows where `finite` is false."""
    count = tf.where(finite, tf.shape(values[0])[0], 0)
    return [value[:count] for value in values]
