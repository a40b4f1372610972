"""A table whose pieces are on several devices, by logical rows."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tf_dlrm.embeddings.config import TableConfig
from tf_dlrm.embeddings.placements.sharded_stack import Held
from tf_dlrm.embeddings.tables import ROWS, Slice, StackedTable, Table


class ShardedTable(Table):
    """A table whose pieces are on several devices, some of them perhaps of other processes.

    Args:
        config: The table.
        held: Its pieces: one, or several by rows or by columns, or a copy on every device.
        copied: Whether every piece is the whole table.
    """

    def __init__(self, config: TableConfig, held: Sequence[Held], copied: bool) -> None:
        super().__init__(config)
        self.held_by_all = self._copied = copied
        here = [h for h in held if h.stack is not None]
        self._elsewhere = [] if copied else [h for h in held if h.stack is None]
        pieces = [(h.piece, _PieceOfTable(config, h)) for h in here]
        self._pieces = sorted(pieces, key=lambda part: (part[0].first_row, part[0].first_column))

    def read_rows(self, start: int = 0, count: int | None = None, slot: str = ROWS) -> tf.Tensor:
        """See `Table.read_rows`; of copies the first is read.

        Raises:
            ValueError: If another process holds some of the rows.
        """
        count = self.config.vocabulary_size - start if count is None else count
        self._check_range(start, count)
        self._check_here(start, count)
        pieces = self._pieces[:1] if self._copied else self._pieces
        found, by_column = [], False
        for piece, part in pieces:
            first, stop = _overlap(piece.first_row, piece.rows, start, count)
            if first < stop:
                found.append(part.read_rows(first, stop - first, slot))
                by_column = piece.columns < self.config.dim
        if not found:
            return tf.zeros((0, *self.shape(slot)[1:]))
        return found[0] if len(found) == 1 else tf.concat(found, 1 if by_column else 0)

    def assign_rows(self, values: Any, start: int = 0, slot: str = ROWS) -> None:
        """See `Table.assign_rows`; all copies are written.

        Raises:
            ValueError: If another process holds some of the rows.
        """
        values = self._as_rows(values, slot)
        count = values.shape[0]
        self._check_range(start, count)
        self._check_here(start, count)
        for piece, part in self._pieces:
            first, stop = _overlap(piece.first_row, piece.rows, start, count)
            if first < stop:
                rows = values[first + piece.first_row - start : stop + piece.first_row - start]
                if values.shape.rank == 2:
                    rows = rows[:, piece.first_column : piece.first_column + piece.columns]
                part.assign_rows(rows, first, slot)

    def slices(self, slot: str = ROWS) -> list[Slice]:
        """See `Table.slices`."""
        if self._copied:
            return [
                held._replace(
                    assign=functools.partial(self.assign_rows, start=held.first_row, slot=slot)
                )
                for held in self._pieces[0][1].slices(slot)
            ]
        return [
            held._replace(
                first_row=held.first_row + piece.first_row,
                first_column=held.first_column + piece.first_column,
            )
            for piece, part in self._pieces
            for held in part.slices(slot)
        ]

    def _check_here(self, start: int, count: int) -> None:
        for held in self._elsewhere:
            first, stop = _overlap(held.piece.first_row, held.piece.rows, start, count)
            if first < stop:
                raise ValueError(
                    f"Rows of table '{self.config.name}' are on device {held.device}, which this "
                    "process cannot reach; a checkpoint has all rows."
                )


class _PieceOfTable(StackedTable):
    """A piece of a table, by its own rows and columns."""

    def __init__(self, config: TableConfig, held: Held) -> None:
        assert held.stack is not None  # for mypy
        super().__init__(config, held.stack, held.offset)
        self._size = (held.piece.rows, held.piece.columns)

    def size(self) -> tuple[int, int]:
        """See `Table.size`."""
        return self._size


def _overlap(first_row: int, rows: int, start: int, count: int) -> tuple[int, int]:
    """Returns the part of [start, start + count) in a piece, counted from the piece's first row."""
    first = max(start, first_row)
    return first - first_row, min(start + count, first_row + rows) - first_row
