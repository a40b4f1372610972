"""Files of typed columns (Parquet, Arrow): those that are used, some rows at a time."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tfrecords.conversion import table_rows
from tfrecords.conversion.formats import Piece
from tfrecords.conversion.table_description import TableDescription
from tfrecords.conversion.text_table import check_columns
from tfrecords.errors import DataError
from tfrecords.input_files import open_input
from tfrecords.kinds import Kind, Text
from tfrecords.kinds.kind import is_text
from tfrecords.kinds.label import Label
from tfrecords.kinds.number import Number

_MAGIC = b"ARROW1"


def column_pieces(
    path: str, start: int, piece_rows: int, description: TableDescription
) -> Iterator[Piece]:
    """Yields tables of the columns that are used; pieces are counted in rows.

    Args:
        path: The file.
        start: The row at which to begin.
        piece_rows: Rows of a piece, at most.
        description: What the columns are.

    Raises:
        DataError: If the file cannot be read, or its columns are not what the description says.
    """
    batches_of = _of_parquet if description.format == "parquet" else _of_arrow
    with open_input(path) as source, explained(path, description.format):
        for at, batch, done in batches_of(path, source, start, piece_rows, description):
            for first in range(0, len(batch), piece_rows):
                # A run goes on at the end of an earlier piece, which may lie within a batch where
                # that run had pieces of another size.
                table = pa.Table.from_batches([batch[first : first + piece_rows]])
                end = at + first + len(table)
                table = table[max(0, start - at - first) :]
                if len(table):
                    table = with_nulls(table, description.null_values)
                    yield Piece(path, end - len(table), end, end - len(table) + 1, table, done)


@contextlib.contextmanager
def explained(path: str, format: str) -> Iterator[None]:
    """Turns what Arrow raises about a file into a DataError."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        name = "Parquet" if format == "parquet" else "Arrow's format"
        raise DataError(f"{path} cannot be read as {name}: {error}.") from error


# The number of the first row, rows, and the bytes of the file that have been read with them.
_Batch = tuple[int, pa.RecordBatch, int]


def _of_parquet(
    path: str, source: Any, start: int, rows: int, description: TableDescription
) -> Iterator[_Batch]:
    size = source.seek(0, os.SEEK_END)
    with pq.ParquetFile(source) as file:
        check(path, file.schema_arrow, description)
        end = 0
        for group in range(file.num_row_groups):
            at, end = end, end + file.metadata.row_group(group).num_rows
            if end <= start:
                continue
            done = size * (group + 1) // file.num_row_groups
            columns = list(description.used)
            for batch in file.iter_batches(rows, [group], columns, use_threads=False):
                yield at, batch, done
                at += len(batch)


def _of_arrow(
    path: str, source: Any, start: int, rows: int, description: TableDescription
) -> Iterator[_Batch]:
    del start, rows  # batches are read as they were written
    check(path, arrow_schema(source), description)
    at = 0
    for batch in arrow_batches(source, list(description.used)):
        yield at, batch, source.tell()
        at += len(batch)


def arrow_schema(source: Any) -> pa.Schema:
    """The columns of a file in Arrow's format, a stream or one with random access (Feather)."""
    with _arrow_reader(source, None) as reader:
        return pa.schema([field.with_type(_plain(field.type)) for field in reader.schema])


def arrow_batches(
    source: Any, columns: list[str], first: int = 0, stop: int | None = None
) -> Iterator[pa.RecordBatch]:
    """Columns of the batches `[first, stop)` of a file in Arrow's format."""
    with _arrow_reader(source, None) as reader:
        indices = sorted(reader.schema.get_field_index(name) for name in columns)
    with _arrow_reader(source, indices) as reader:
        if isinstance(reader, pa.ipc.RecordBatchFileReader):
            numbers = range(first, reader.num_record_batches if stop is None else stop)
            found: Iterator[pa.RecordBatch] = map(reader.get_batch, numbers)
        else:
            found = itertools.islice(reader, first, stop)
        for batch in found:
            yield batch.cast(
                pa.schema([field.with_type(_plain(field.type)) for field in batch.schema])
            )


def _arrow_reader(source: Any, columns: list[int] | None) -> Any:
    source.seek(0)
    kind = source.read(len(_MAGIC))
    source.seek(0)
    options = pa.ipc.IpcReadOptions(included_fields=columns)
    opened = pa.ipc.open_file if kind == _MAGIC else pa.ipc.open_stream
    return opened(source, options=options)


def _plain(type: pa.DataType) -> pa.DataType:
    """The type of the same values that all of Arrow's functions know."""
    if pa.types.is_string_view(type):
        return pa.string()
    return pa.binary() if pa.types.is_binary_view(type) else type


def check(path: str, schema: pa.Schema, description: TableDescription) -> None:
    """Checks that a file has the columns that are described, of types that can be read.

    Raises:
        DataError: If it has not.
    """
    check_columns(path, tuple(schema.names), description)
    for number in description.numbers:
        _check_type(path, schema.field(number.column), number.meaning)
    if description.group is not None:
        _check_type(path, schema.field(description.group), Text())
    for column in description.categorical:
        field = schema.field(column.column)
        if column.separator is not None and is_text(field.type):
            continue
        if column.many:
            if not _is_list(field.type):
                hotness = "any" if column.hotness is None else column.hotness
                needed = f"hotness = {hotness!r} needs lists, or text and a separator"
                raise DataError(_other_type(path, field, needed))
            field = pa.field(field.name, field.type.value_type)
            if column.separator is not None:
                if not is_text(field.type) and not _is_list(field.type):
                    raise DataError(_other_type(path, field, "text is needed"))
                continue
        _check_type(path, field, column.meaning)


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _check_type(path: str, field: pa.Field, kind: Kind | Number | Label) -> None:
    """Checks that a column can hold what it is to hold."""
    if not kind.accepts(field.type):
        raise DataError(_other_type(path, field, kind.needed_type))


def _other_type(path: str, field: pa.Field, needed: str) -> str:
    return f"{path}: the column {field.name!r} is of type {field.type}, where {needed}."


def with_nulls(table: pa.Table, null_values: tuple[str, ...]) -> pa.Table:
    """The table with nulls where its text is one of `null_values`."""
    for index, name in enumerate(table.column_names):
        column = table.column(index)
        if is_text(column.type) and null_values:
            array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
            table = table.set_column(index, name, table_rows.blank_out(array, null_values))
    return table
