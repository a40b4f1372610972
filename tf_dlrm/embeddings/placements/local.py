"""All tables on one device, in the process that looks into them."""

from collections.abc import Mapping, Sequence

import tensorflow as tf

from tf_dlrm.embeddings.bags import Bags
from tf_dlrm.embeddings.config import FeatureConfig, tables_of
from tf_dlrm.embeddings.kernels import native
from tf_dlrm.embeddings.placements.placement import Lookup
from tf_dlrm.embeddings.pooling import StackBatch, StackedFeature
from tf_dlrm.embeddings.stack import Piece, Stack, group_tables
from tf_dlrm.embeddings.tables import StackedTable, TableSet


class LocalPlacement:
    """Tables on one device, those of equal dim and optimizer in one variable.

    Attributes:
        tables: The tables as logical [vocabulary_size, dim] tensors.
        stacks: The variables that hold them.
    """

    def __init__(self, features: Sequence[FeatureConfig], seed: int = 0) -> None:
        """Creates the tables and draws their first values.

        Args:
            features: The features and their tables.
            seed: Seed of the first values.

        Raises:
            ValueError: If the features contradict each other.
        """
        configs = tables_of(features)
        self.stacks = tuple(
            Stack([Piece.whole(table) for table in group], seed) for group in group_tables(configs)
        )
        places = {
            piece.table.name: (stack, offset)
            for stack in self.stacks
            for piece, offset in zip(stack.pieces, stack.offsets, strict=True)
        }
        self._features: list[list[StackedFeature]] = [
            [
                StackedFeature(f.name, f.table, places[f.table.name][1])
                for f in features
                if places[f.table.name][0] is stack
            ]
            for stack in self.stacks
        ]
        self.tables = TableSet(
            [StackedTable(config, *places[config.name]) for config in configs],
            [variable for stack in self.stacks for variable in stack.variables],
        )

    def lookup(self, bags: Mapping[str, Bags]) -> Lookup:
        """See `Placement.lookup`; one gather for each stack."""
        vectors: dict[str, tf.Tensor] = {}
        residuals = []
        for stack, features in zip(self.stacks, self._features, strict=True):
            batch = StackBatch(features, bags, stack.rows, stack.dim)
            if native.are_used(stack.optimizer, stack.variable.device):
                sums = native.pool(stack.variable, batch.ids, *batch.bags())
                vectors.update(batch.vectors_of(sums))
            else:
                vectors.update(batch.pool(tf.gather(stack.variable, batch.ids)))
            residuals.append(batch)
        return Lookup(vectors, residuals)

    def update(self, lookup: Lookup, gradients: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """See `Placement.update`; one update for each stack."""
        step = self.tables.updates.read_value()
        weight_gradients: dict[str, tf.Tensor] = {}
        for stack, batch in zip(self.stacks, lookup.residuals, strict=True):
            if batch.has_weights:
                rows = tf.gather(stack.variable, batch.ids)
                weight_gradients.update(batch.weight_gradients(rows, gradients))
            if native.are_used(stack.optimizer, stack.variable.device):
                bag_of, weights, _ = batch.bags()
                native.update(
                    stack.optimizer,
                    stack.variable,
                    stack.slots,
                    batch.ids,
                    bag_of,
                    weights,
                    batch.gradients_of_sums(gradients),
                    step,
                )
            else:
                stack.optimizer.apply(
                    stack.variable, stack.slots, batch.ids, batch.unpool(gradients), step
                )
        self.tables.updates.assign_add(1)
        return weight_gradients
