"""Tables of equal dim and optimizer, or pieces of them, one after the other in one variable."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

import tensorflow as tf

from tf_dlrm.embeddings.config import TableConfig
from tf_dlrm.embeddings.initializers import CHUNK_ROWS
from tf_dlrm.embeddings.kernels import native
from tf_dlrm.embeddings.optimizers import Optimizer
from tf_dlrm.internals import ResourceVariable

# Elements that are read at once where a table is swept: 64 MB of float32.
_CHUNK_ELEMENTS = 1 << 24


def group_tables(tables: Sequence[TableConfig]) -> list[list[TableConfig]]:
    """Returns the tables in groups that one variable can hold: of equal dim and optimizer."""
    groups: dict[tuple[int, Optimizer], list[TableConfig]] = {}
    for table in tables:
        groups.setdefault((table.dim, table.optimizer), []).append(table)
    return list(groups.values())


@dataclasses.dataclass(frozen=True)
class Piece:
    """A rectangle of a table.

    Attributes:
        table: The table.
        first_row: First row of the table.
        rows: Number of rows.
        first_column: First column of the table.
        columns: Number of columns.
    """

    table: TableConfig
    first_row: int
    rows: int
    first_column: int
    columns: int

    @classmethod
    def whole(cls, table: TableConfig) -> "Piece":
        """Returns all of a table."""
        return cls(table, 0, table.vocabulary_size, 0, table.dim)


class Stack:
    """One variable with pieces of several tables, and one for each slot of their optimizer.

    Attributes:
        pieces: The pieces, in the order of their rows.
        offsets: The first row of each piece in the stack.
        rows: Number of rows of all pieces.
        dim: Columns.
        optimizer: The optimizer of all tables.
        variable: float32 resource variable [rows, dim].
        slots: By name, float32 resource variables [rows, dim], or [rows] where row-wise.
    """

    def __init__(self, pieces: Sequence[Piece], seed: int, name: str = "rows") -> None:
        """Creates the variables on the current device and draws the first values.

        Args:
            pieces: Pieces of equally many columns, of tables of equal optimizer.
            seed: Seed of the first values.
            name: Name of the table variable, of its own where Keras writes it by name.

        Raises:
            tf.errors.ResourceExhaustedError: If there is not enough memory.
        """
        self.pieces = tuple(pieces)
        self.dim = pieces[0].columns
        self.optimizer = pieces[0].table.optimizer
        *offsets, self.rows = itertools.accumulate((piece.rows for piece in pieces), initial=0)
        self.offsets: tuple[int, ...] = tuple(offsets)
        shapes = {
            slot: (self.rows,) if slot.row_wise else (self.rows, self.dim)
            for slot in self.optimizer.slots
        }
        numbers = self.rows * self.dim + sum(map(math.prod, shapes.values()))
        try:
            if numbers > tf.int64.max:  # which TensorFlow cannot even be asked for
                raise OverflowError
            self.variable = _variable(self.optimizer, (self.rows, self.dim), 0.0, name)
            self.slots = {
                slot.name: _variable(self.optimizer, shape, slot.initial_value, slot.name)
                for slot, shape in shapes.items()
            }
        except (OverflowError, tf.errors.ResourceExhaustedError) as error:
            names = ", ".join(dict.fromkeys(piece.table.name for piece in pieces))
            raise tf.errors.ResourceExhaustedError(
                None,
                None,
                f"There is not enough memory for tables {names}: {self.rows:,} rows of {self.dim} "
                f"columns with {len(shapes)} optimizer slot(s) take {4e-9 * numbers:,.1f} GB as "
                "float32. Give them fewer rows, a smaller dim or a storage that shares rows, or "
                "divide them among the devices of a strategy.",
            ) from error
        for piece, offset in zip(self.pieces, self.offsets, strict=True):
            stop = piece.first_column + piece.columns
            for start in range(0, piece.rows, CHUNK_ROWS):
                count = min(CHUNK_ROWS, piece.rows - start)
                values = piece.table.initial_rows(seed, piece.first_row + start, count)
                self.assign(self.variable, offset + start, values[:, piece.first_column : stop])

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


def _variable(optimizer: Optimizer, shape: tuple[int, ...], value: float, name: str) -> tf.Variable:
    device = tf.zeros([]).device
    if native.are_used(optimizer, device):
        with tf.device(device):
            initial = native.filled(shape, value)
    else:
        initial = tf.fill(shape, tf.constant(value, tf.float32))
    # Not tf.Variable, which under a strategy would make a copy on every device. Keras 2 compiles
    # models under a strategy only if all of their variables say that they were made there.
    strategy = tf.distribute.get_strategy() if tf.distribute.has_strategy() else None
    return ResourceVariable(initial, trainable=False, name=name, distribute_strategy=strategy)


def chunks(shape: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yields (start, count) of ranges of rows, each small enough to be held beside the table."""
    step = max(1, _CHUNK_ELEMENTS // math.prod(shape[1:]))
    for start in range(0, shape[0], step):
        yield start, min(step, shape[0] - start)
