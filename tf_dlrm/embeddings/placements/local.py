"""All tables on one device, in the process that looks into them."""

import functools
from collections.abc import Mapping, Sequence

import tensorflow as tf

from tf_dlrm.embeddings.bags import Bags
from tf_dlrm.embeddings.config import FeatureConfig, tables_of
from tf_dlrm.embeddings.kernels import native
from tf_dlrm.embeddings.kernels.choice import are_allowed
from tf_dlrm.embeddings.placements.placement import (
    Lookup,
    Pulled,
    all_finite,
    none_unless,
    rows_and_gradients,
)
from tf_dlrm.embeddings.pooling import StackBatch, StackedFeature
from tf_dlrm.embeddings.stack import Piece, Stack, group_tables
from tf_dlrm.embeddings.tables import StackedTable, TableSet


class LocalPlacement:
    """Tables on one device, those of equal dim and optimizer in one variable.

    Attributes:
        tables: The tables as logical [vocabulary_size, dim] tensors.
        stacks: The variables that hold them.
    """

    checks_ids_on_host = False

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
        # The ids of each stack; None where the kernels looked them up.
        batches: list[StackBatch | None] = []
        for stack, features in zip(self.stacks, self._features, strict=True):
            if are_allowed() and native.are_used(stack.optimizer, stack.variable.device):
                vectors.update(native.lookup(stack.variable, features, bags))
                batches.append(None)
            else:
                batch = StackBatch(features, bags, stack.rows, stack.dim)
                vectors.update(batch.pool(tf.gather(stack.variable, batch.ids)))
                batches.append(batch)
        return Lookup(vectors, bags, batches)

    def weight_gradients(
        self, lookup: Lookup, gradients: Mapping[str, tf.Tensor]
    ) -> dict[str, tf.Tensor]:
        """See `Placement.weight_gradients`."""
        found: dict[str, tf.Tensor] = {}
        for stack, features in zip(self.stacks, self._features, strict=True):
            used = [f for f in features if f.name in gradients]
            if any(lookup.bags[f.name].weights is not None for f in used):
                batch = StackBatch(used, lookup.bags, stack.rows, stack.dim)
                found.update(
                    batch.weight_gradients(tf.gather(stack.variable, batch.ids), gradients)
                )
        return found

    def update(self, pulled: Sequence[Pulled]) -> None:
        """See `Placement.update`; one update for each stack."""
        finite = all_finite(pulled)
        step = self.tables.updates.read_value()
        for k, (stack, features) in enumerate(zip(self.stacks, self._features, strict=True)):
            own = [p for p in pulled if any(f.name in p.gradients for f in features)]
            if not own:
                continue
            variables = stack.variable, stack.slots
            lookup, gradients = own[0]
            used = [f for f in features if f.name in gradients]
            batch: StackBatch | None = lookup.residuals[k]
            if len(own) == 1 and batch is None:
                native.update(
                    stack.optimizer, *variables, used, lookup.bags, gradients, step, finite
                )
                continue
            if len(own) == 1 and batch is not None and used == features:
                ids, of_rows = batch.ids, batch.unpool(gradients)
            else:
                ids, of_rows = rows_and_gradients(own, features, stack.rows, stack.dim)
            ids, of_rows = none_unless(finite, ids, of_rows)
            apply = stack.optimizer.apply
            if batch is None:
                apply = functools.partial(native.update_rows, stack.optimizer)
            apply(*variables, ids, of_rows, step)
        self.tables.count_update(finite)
