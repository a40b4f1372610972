"""Tables that are looked up only, for a model that is exported: empty until rows are put there."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import tensorflow as tf

from tf_dlrm.embeddings.bags import Bags
from tf_dlrm.embeddings.config import FeatureConfig, TableConfig, tables_of
from tf_dlrm.embeddings.placements.placement import Lookup, Pulled
from tf_dlrm.embeddings.pooling import StackBatch, StackedFeature
from tf_dlrm.embeddings.row_format import RowFormat, row_format
from tf_dlrm.embeddings.tables import TableSet
from tf_dlrm.internals import ResourceVariable


@dataclasses.dataclass(frozen=True)
class ServingPlan:
    """Builds a model whose tables are looked up only and have no rows yet.

    Such a model is what an export is traced from. It needs no memory for tables of any size, and
    cannot be trained.

    Attributes:
        table_dtype: One of `row_format.TABLE_DTYPES`.
    """

    table_dtype: str = "float32"


class ServingStack:
    """Tables of equal dim, one after the other, in one variable.

    Attributes:
        tables: The tables.
        offsets: The row of the stack at which each of them starts.
        rows: Number of rows of all tables.
        dim: Columns of the tables.
        variable: Resource variable [None, width of the format], without any rows.
    """

    def __init__(self, tables: Sequence[TableConfig], format: RowFormat) -> None:
        self.tables = tuple(tables)
        self.dim = tables[0].dim
        *offsets, self.rows = itertools.accumulate((t.vocabulary_size for t in tables), initial=0)
        self.offsets = tuple(offsets)
        width = format.width(self.dim)
        # Of unknown length, so that it may be empty here and whole once it is loaded.
        self.variable = ResourceVariable(
            tf.zeros([0, width], format.dtype), trainable=False, name="rows", shape=[None, width]
        )


class ServingPlacement:
    """Lookups into tables that somebody else fills.

    Features of one row and features of a whole batch may be looked up together: a feature's vectors
    are as many as its bags.

    Attributes:
        format: How rows are kept.
        stacks: The variables.
        tables: No tables: there are no rows to read or restore.
    """

    checks_ids_on_host = False

    def __init__(self, features: Sequence[FeatureConfig], plan: ServingPlan) -> None:
        """Creates the variables.

        Args:
            features: The features and their tables.
            plan: How rows are kept.

        Raises:
            ValueError: If the features contradict each other, or there is no such format.
        """
        self.format = row_format(plan.table_dtype)
        groups: dict[int, list[TableConfig]] = {}
        for table in tables_of(features):
            groups.setdefault(table.dim, []).append(table)
        self.stacks = tuple(ServingStack(group, self.format) for group in groups.values())
        self._features = [
            [
                StackedFeature(f.name, f.table, stack.offsets[stack.tables.index(f.table)])
                for f in features
                if f.table in stack.tables
            ]
            for stack in self.stacks
        ]
        self.tables = TableSet([], [stack.variable for stack in self.stacks])

    @property
    def bytes(self) -> int:
        """The bytes of all tables once they have rows."""
        return sum(stack.rows * self.format.row_bytes(stack.dim) for stack in self.stacks)

    def lookup(self, bags: Mapping[str, Bags]) -> Lookup:
        """See `Placement.lookup`; one gather for each stack and number of bags."""
        vectors: dict[str, tf.Tensor] = {}
        for stack, features in zip(self.stacks, self._features, strict=True):
            groups: dict[int | None, list[StackedFeature]] = {}
            for feature in features:
                groups.setdefault(bags[feature.name].static_batch, []).append(feature)
            for group in groups.values():
                # Signatures compare the numbers of rows, all at once.
                number = bags[group[0].name].batch
                own = {f.name: dataclasses.replace(bags[f.name], batch=number) for f in group}
                batch = StackBatch(group, own, stack.rows, stack.dim)
                rows = self.format.decode(tf.gather(stack.variable, batch.ids), stack.dim)
                vectors.update(batch.pool(rows))
        return Lookup(vectors, bags, None)

    def weight_gradients(
        self, lookup: Lookup, gradients: Mapping[str, tf.Tensor]
    ) -> dict[str, tf.Tensor]:
        """Raises ValueError, as `update`."""
        self.update([Pulled(lookup, gradients)])
        return {}

    def update(self, pulled: Sequence[Pulled]) -> None:
        """Raises ValueError: see `Placement.update`."""
        raise ValueError("A model that was built with a ServingPlan cannot be trained.")
