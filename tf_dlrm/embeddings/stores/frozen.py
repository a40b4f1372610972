"""Tables that are looked up only, for a model that is exported: empty until rows are put there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from tf_dlrm.embeddings.bags import Bags
from tf_dlrm.embeddings.block import Block
from tf_dlrm.embeddings.config import FeatureConfig
from tf_dlrm.embeddings.lookup import Lookup, Tables
from tf_dlrm.embeddings.optimizers import Frozen
from tf_dlrm.embeddings.plan import whole_plan
from tf_dlrm.embeddings.requests import Asked, Used
from tf_dlrm.embeddings.row_format import RowFormat, row_format
from tf_dlrm.embeddings.stack import Shard, make_stacks
from tf_dlrm.embeddings.tables import TableSet
from tf_dlrm.internals import ResourceVariable


@dataclasses.dataclass(frozen=True)
class FrozenTables:
    """Asks for tables that are looked up only and have no rows yet, where others give a plan.

    A model of such tables is what an export is traced from. It needs no memory for tables of any
    size, and cannot be trained.

    Attributes:
        table_dtype: One of `row_format.TABLE_DTYPES`.
    """

    table_dtype: str = "float32"


class EmptyShard(Shard):
    """Tables of equal dim, one after the other, in one variable that has no rows yet.

    Attributes:
        dim: Columns of the tables.
        variable: Resource variable [None, width of the format].
    """

    def __init__(self, blocks: Sequence[Block], format: RowFormat) -> None:
        self.blocks = list(blocks)
        self.rows = blocks[-1].offset + blocks[-1].rows
        self.dim = blocks[0].columns
        self.slots = {}
        width = format.width(self.dim)
        # Of unknown length, so that it may be empty here and whole once it is loaded.
        self.variable = ResourceVariable(
            tf.zeros([0, width], format.dtype), trainable=False, name="rows", shape=[None, width]
        )


class FrozenPlacement(Tables):
    """Lookups into tables that somebody else fills.

    Features of one row and features of a whole batch may be looked up together: a feature's vectors
    are as many as its bags. Signatures compare the numbers of rows, all at once.

    Attributes:
        format: How rows are kept.
        shards: What holds each stack.
        tables: No tables: there are no rows to read or restore.
    """

    _axis_of_features = 1

    def __init__(self, features: Sequence[FeatureConfig], plan: FrozenTables) -> None:
        """Creates the variables, as the plan says.

        Raises:
            ValueError: If the features contradict each other, or there is no such format.
        """
        self.format = row_format(plan.table_dtype)
        self.shards: list[EmptyShard] = []

        def make_shard(device: int, blocks: Sequence[Block]) -> Shard:
            del device
            self.shards.append(EmptyShard(blocks, self.format))
            return self.shards[-1]

        # Whatever optimizers tables were trained by, those of equal dim are in one variable.
        frozen = [
            dataclasses.replace(f, table=dataclasses.replace(f.table, optimizer=Frozen()))
            for f in features
        ]
        stacks = make_stacks(frozen, whole_plan(frozen), make_shard)
        super().__init__(features, stacks, TableSet([], [s.variable for s in self.shards]))

    @property
    def bytes(self) -> int:
        """The bytes of all tables once they have rows."""
        return sum(shard.rows * self.format.row_bytes(shard.dim) for shard in self.shards)

    def read(self, asked: Sequence[Asked]) -> list[tuple[Any, Any]]:
        """See `Tables.read`."""
        encoded = [(own.stack, tf.gather(own.stack.on().variable, own.ids)) for own in asked]
        return [(self.format.decode(rows, stack.dim), None) for stack, rows in encoded]

    def write(
        self, used: Sequence[Sequence[Used]], step: tf.Tensor, finite: tf.Tensor, kernels: bool
    ) -> tf.Tensor:
        """Is never called: see `_check_trained`."""
        raise NotImplementedError

    def _check_trained(self, lookups: Sequence[Lookup]) -> None:
        raise ValueError("A model that was built with FrozenTables cannot be trained.")

    def _of_one_batch(self, bags: Mapping[str, Bags]) -> dict[str, Bags]:
        first: dict[int | None, tf.Tensor] = {}
        return {
            name: entry
            if entry.are_single
            else dataclasses.replace(entry, batch=first.setdefault(entry.static_batch, entry.batch))
            for name, entry in bags.items()
        }
