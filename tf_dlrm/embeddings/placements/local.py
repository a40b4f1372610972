"""All tables on one device, in the process that looks into them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import tensorflow as tf

from tf_dlrm.embeddings.bags import Bags
from tf_dlrm.embeddings.config import FeatureConfig, tables_of
from tf_dlrm.embeddings.kernels import native
from tf_dlrm.embeddings.kernels.choice import are_allowed
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
            Stack([Piece.whole(table) for table in group], seed, f"rows_{k}")
            for k, group in enumerate(group_tables(configs))
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
            row_variables=[stack.variable for stack in self.stacks],
        )

    def lookup(self, bags: Mapping[str, Bags]) -> Lookup:
        """See `Placement.lookup`; one gather for each stack."""
        vectors: dict[str, tf.Tensor] = {}
        batches: list[StackBatch | None] = []
        for stack, features in zip(self.stacks, self._features, strict=True):
            if are_allowed() and native.are_used(stack.optimizer, stack.variable.device):
                vectors.update(native.lookup(stack.variable, features, bags))
                batches.append(None)
            else:
                batch = StackBatch(features, bags, stack.rows, stack.dim)
                vectors.update(batch.pool(tf.gather(stack.variable, batch.ids)))
                batches.append(batch)
        return Lookup(vectors, _Residuals(bags, batches))

    def update(self, lookup: Lookup, gradients: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """See `Placement.update`; one update for each stack."""
        step = self.tables.updates.read_value()
        residuals: _Residuals = lookup.residuals
        weight_gradients: dict[str, tf.Tensor] = {}
        for stack, features, batch in zip(
            self.stacks, self._features, residuals.batches, strict=True
        ):
            if any(residuals.bags[f.name].weights is not None for f in features):
                whole = batch or StackBatch(features, residuals.bags, stack.rows, stack.dim)
                rows = tf.gather(stack.variable, whole.ids)
                weight_gradients.update(whole.weight_gradients(rows, gradients))
            variables = stack.variable, stack.slots
            if batch is None:
                native.update(
                    stack.optimizer, *variables, features, residuals.bags, gradients, step
                )
            else:
                stack.optimizer.apply(*variables, batch.ids, batch.unpool(gradients), step)
        self.tables.updates.assign_add(1)
        return weight_gradients


class _Residuals(NamedTuple):
    """What an update needs of its lookup.

    Attributes:
        bags: The bags of each feature by name.
        batches: The ids of each stack; None where the kernels looked them up.
    """

    bags: Mapping[str, Bags]
    batches: Sequence[StackBatch | None]
