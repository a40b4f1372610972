"""Tables of one's own (CSV, TSV, Parquet, Arrow) as an input format of the conversion."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from tfrecords.conversion import column_table, labels, table_rows, text_input, text_table
from tfrecords.conversion.column_description import CategoricalColumn
from tfrecords.conversion.description_file import to_toml
from tfrecords.conversion.formats import BadRow, InputColumn, Parsed, Piece
from tfrecords.conversion.table_description import TableDescription

_PIECE_ROWS = 1 << 17
# About what a row of a table takes as text, to bound pieces of columns by --memory_gb as well.
_ROW_BYTES = 128
_KEPT_TYPES = {"time": "<f8", "group": "<i8"}


class TabularFormat:
    """Files of rows, as a description says.

    The key of a value is what its kind says: see `tfrecords.kinds`.

    Args:
        description: What the files hold.
        name: A name for it, for `dataset.json`.
        piece_bytes: About how many bytes of text are parsed at once; None for the default.

    Attributes:
        name: The name.
        label: Name of the label column.
        dense: Names of the dense columns.
        columns: The categorical columns.
        label_texts: The texts that the description of the label names.
        kept: What else there is of each row; see `InputFormat`.
        description: What the files hold.
    """

    def __init__(
        self, description: TableDescription, name: str = "table", piece_bytes: int | None = None
    ) -> None:
        self.name = name
        self.label = description.label.column
        self.dense = tuple(column.name for column in description.dense)
        self.columns = tuple(_input_column(column) for column in description.categorical)
        self.kept = {name: _KEPT_TYPES[name] for name in description.kept}
        self.label_texts = labels.described(description.label)
        self.description = description
        self._piece_bytes = piece_bytes or text_input.PIECE_BYTES

    def described_by(self, description: TableDescription) -> TabularFormat:
        """The same by another description."""
        return TabularFormat(description, self.name, self._piece_bytes)

    def pieces(self, path: str, start: int = 0) -> Iterator[Piece]:
        """Reads a file; see `InputFormat.pieces`."""
        description = self.description
        if not description.of_text:
            rows = max(1, min(_PIECE_ROWS, self._piece_bytes // _ROW_BYTES))
            yield from column_table.column_pieces(path, start, rows, description)
            return
        columns, begin = text_table.read_header(path, description)
        pieces = text_input.text_pieces(
            path, max(start, begin), self._piece_bytes, f"{description.format.upper()} table"
        )
        for piece in pieces:
            yield self._of_lines(columns, begin, piece)

    @property
    def lines(self) -> bool:
        """Whether pieces are made of lines; see `InputFormat`."""
        return self.description.of_text

    def from_lines(self, path: str, head: bytes) -> tuple[int, Callable[[Piece], Piece]]:
        """Where the rows of a file of text begin, and how pieces are made of its lines.

        Args:
            path: The file.
            head: Its first lines.

        Returns:
            A byte of the text, and a function of pieces whose data are lines as they are.

        Raises:
            DataError: If the columns are not what the description says.
        """
        columns, begin = text_table.header(path, head, self.description)
        return begin, functools.partial(self._of_lines, columns, begin)

    def _of_lines(self, columns: tuple[str, ...], begin: int, piece: Piece) -> Piece:
        header = 0 if self.description.columns else 1
        return dataclasses.replace(
            piece,
            first_line=1 + header if piece.start == begin else None,
            data=text_table.Lines(columns, piece.data),
        )

    def parse(self, piece: Piece) -> Parsed:
        """Parses a piece; see `InputFormat.parse`."""
        if not isinstance(piece.data, text_table.Lines):
            rows, bad = table_rows.to_rows(piece.data, self.description)
            return Parsed(piece.data.num_rows, rows, bad, self._label_values(piece.data))
        table = text_table.parse_lines(piece.data, self.description)
        if table is not None:
            rows, bad = table_rows.to_rows(table, self.description)
            if not bad:
                return Parsed(table.num_rows, rows, [], self._label_values(table))
        # Once more as text, so that messages show what the file holds, and not what it means.
        table, numbers, bad = text_table.parse_texts(piece.data, self.description)
        lines = len(numbers) + len(bad)
        if table is None:
            return Parsed(lines, None, bad)
        rows, further = table_rows.to_rows(table, self.description)
        bad += [dataclasses.replace(row, line=numbers[row.line]) for row in further]
        return Parsed(lines, rows, sorted(bad, key=_line), self._label_values(table))

    def _label_values(self, table: pa.Table) -> dict[str, int]:
        return labels.seen(table_rows.array(table, self.label), self.description.label)

    def describe(self) -> dict[str, Any]:
        """Name and description; see `InputFormat.describe`."""
        return {"name": self.name, "description": to_toml(self.description)}


def _line(row: BadRow) -> int:
    return row.line


def _input_column(column: CategoricalColumn) -> InputColumn:
    return InputColumn(
        column.name,
        column.hotness,
        column.meaning.size,
        column.min_count,
    )
