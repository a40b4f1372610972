"""What every way to place tables offers to the layer above it."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from tf_dlrm.embeddings.bags import Bags
from tf_dlrm.embeddings.tables import TableSet


class Lookup(NamedTuple):
    """What one lookup gives.

    Attributes:
        vectors: For each feature, float32 [batch, dim].
        residuals: Whatever the placement needs to update the rows that it looked up.
    """

    vectors: dict[str, tf.Tensor]
    residuals: Any


class Placement(Protocol):
    """Where the rows of tables are, how they are found and how they are updated.

    Attributes:
        tables: The tables as logical [vocabulary_size, dim] tensors.
    """

    tables: TableSet

    def lookup(self, bags: Mapping[str, Bags]) -> Lookup:
        """Looks up the bags of all features."""
        ...

    def update(self, lookup: Lookup, gradients: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Updates the rows of a lookup, once, with the optimizers of their tables.

        Args:
            lookup: What `lookup` returned.
            gradients: For each feature, the gradient [batch, dim] of its vectors.

        Returns:
            For each feature that had weights, the gradient [n] of them.
        """
        ...
