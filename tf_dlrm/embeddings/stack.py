"""Tables of equal dim and optimizer, one after the other in one variable."""

import math
from collections.abc import Iterator, Sequence

import tensorflow as tf

from tf_dlrm.embeddings.config import TableConfig
from tf_dlrm.embeddings.initializers import CHUNK_ROWS
from tf_dlrm.embeddings.optimizers import Optimizer

# Elements that are read at once where a table is swept: 64 MB of float32.
_CHUNK_ELEMENTS = 1 << 24


def group_tables(tables: Sequence[TableConfig]) -> list[list[TableConfig]]:
    """Returns the tables in groups that one variable can hold: of equal dim and optimizer."""
    groups: dict[tuple[int, Optimizer], list[TableConfig]] = {}
    for table in tables:
        groups.setdefault((table.dim, table.optimizer), []).append(table)
    return list(groups.values())


class Stack:
    """One variable with the rows of several tables, and one for each slot of their optimizer.

    Attributes:
        tables: The tables, in the order of their rows.
        offsets: For each table name, its first row in the stack.
        rows: Number of rows of all tables.
        dim: Columns.
        optimizer: The optimizer of all tables.
        variable: float32 resource variable [rows, dim].
        slots: By name, float32 resource variables [rows, dim], or [rows] where row-wise.
    """

    def __init__(self, tables: Sequence[TableConfig], seed: int) -> None:
        """Creates the variables on the current device and draws the first values.

        Args:
            tables: Tables of equal dim and optimizer.
            seed: Seed of the first values.
        """
        self.tables = tuple(tables)
        self.dim = tables[0].dim
        self.optimizer = tables[0].optimizer
        self.offsets: dict[str, int] = {}
        rows = 0
        for table in tables:
            self.offsets[table.name] = rows
            rows += table.vocabulary_size
        self.rows = rows
        self.variable = _variable((rows, self.dim), 0.0, "rows")
        self.slots = {
            slot.name: _variable(
                (rows,) if slot.row_wise else (rows, self.dim), slot.initial_value, slot.name
            )
            for slot in self.optimizer.slots
        }
        for table in tables:
            for start in range(0, table.vocabulary_size, CHUNK_ROWS):
                count = min(CHUNK_ROWS, table.vocabulary_size - start)
                values = table.initial_rows(seed, start, count)
                self.assign(self.variable, self.offsets[table.name] + start, values)

    @property
    def variables(self) -> tuple[tf.Variable, ...]:
        """The table variable and those of the slots."""
        return (self.variable, *self.slots.values())

    @staticmethod
    def read(variable: tf.Variable, start: int, count: int) -> tf.Tensor:
        """Returns `count` rows of a variable of the stack without touching the others."""
        return tf.gather(variable, tf.range(start, start + count, dtype=tf.int64))

    @staticmethod
    def assign(variable: tf.Variable, start: int, values: tf.Tensor) -> None:
        """Writes rows of a variable of the stack in place."""
        with tf.device(variable.device):
            tf.raw_ops.ResourceStridedSliceAssign(
                ref=variable.handle,
                begin=tf.constant([start], tf.int64),
                end=tf.constant([start + values.shape[0]], tf.int64),
                strides=tf.constant([1], tf.int64),
                value=values,
            )


def _variable(shape: tuple[int, ...], value: float, name: str) -> tf.Variable:
    return tf.Variable(tf.fill(shape, tf.constant(value, tf.float32)), trainable=False, name=name)


def chunks(shape: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yields (start, count) of ranges of rows, each small enough to be held beside the table."""
    step = max(1, _CHUNK_ELEMENTS // math.prod(shape[1:]))
    for start in range(0, shape[0], step):
        yield start, min(step, shape[0] - start)
