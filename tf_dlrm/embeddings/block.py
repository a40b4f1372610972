"""A rectangle of a table, and where it lies."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from tf_dlrm.embeddings.config import TableConfig

# The key of the table itself beside those of its slots.
ROWS = "rows"


@dataclasses.dataclass(frozen=True)
class Block:
    """A rectangle of a table on one device.

    Attributes:
        table: The table.
        first_row: First row of the table.
        rows: Number of rows.
        first_column: First column of the table.
        columns: Number of columns.
        device: Number of the device.
        offset: Its first row in the variables that hold it.
        variables: These, by "rows" and the names of the slots; None as long as there are none, and
            where another process has them.
    """

    table: TableConfig
    first_row: int
    rows: int
    first_column: int
    columns: int
    device: int = 0
    offset: int = 0
    variables: Mapping[str, Any] | None = dataclasses.field(default=None, compare=False, repr=False)

    @classmethod
    def whole(cls, table: TableConfig, **where: Any) -> Block:
        """Returns all of a table."""
        return cls(table, 0, table.vocabulary_size, 0, table.dim, **where)

    def part(self, start: int, count: int) -> Block:
        """Returns `count` of the block's rows from `start` on."""
        return dataclasses.replace(
            self, first_row=self.first_row + start, rows=count, offset=self.offset + start
        )

    def overlap(self, start: int, count: int) -> Block | None:
        """Returns those of rows [start, start + count) of the table that are here; None without."""
        first = max(start, self.first_row)
        stop = min(start + count, self.first_row + self.rows)
        return self.part(first - self.first_row, stop - first) if first < stop else None

    def device_name(self, slot: str) -> str:
        """Returns the device whose memory holds the rows, or a slot."""
        return str(self._variable(slot).device)

    def read(self, slot: str) -> tf.Tensor:
        """Returns float32 [rows, columns], or [rows] of a row-wise slot; no other rows are read."""
        return tf.gather(
            self._variable(slot), tf.range(self.offset, self.offset + self.rows, dtype=tf.int64)
        )

    def assign(self, values: tf.Tensor, slot: str) -> None:
        """Writes what `read` returns, in place."""
        variable = self._variable(slot)
        with tf.device(variable.device):
            tf.raw_ops.ResourceStridedSliceAssign(
                ref=variable.handle,
                begin=tf.constant([self.offset], tf.int64),
                end=tf.constant([self.offset + self.rows], tf.int64),
                strides=tf.constant([1], tf.int64),
                value=values,
            )

    def _variable(self, slot: str) -> Any:
        if self.variables is None:
            raise ValueError(
                f"No variable of this process holds this block of '{self.table.name}'."
            )
        return self.variables[slot]


class StackedFeature(NamedTuple):
    """A feature's view of equal columns of its table in a stack.

    Attributes:
        name: Name of the view: that of the feature where it has all columns.
        table: The feature's table.
        offset: The row of the stack at which the table starts.
        first_column: First of the columns in the table.
        part_of: Name of the feature where the view has only some of its columns.
    """

    name: str
    table: TableConfig
    offset: int
    first_column: int = 0
    part_of: str | None = None

    @property
    def feature(self) -> str:
        """Name of the feature."""
        return self.part_of or self.name
