"""Parquet: the columns that are used, some rows of a row group at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from tfrecords.conversion import table_rows
from tfrecords.conversion.formats import Piece
from tfrecords.conversion.table_description import TableDescription
from tfrecords.conversion.text_table import check_columns
from tfrecords.errors import DataError
from tfrecords.kinds import Kind, Text
from tfrecords.kinds.kind import is_text
from tfrecords.kinds.label import Label
from tfrecords.kinds.number import Number


def parquet_pieces(
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
    size = os.path.getsize(path)
    try:
        with pq.ParquetFile(path) as file:
            check(path, file.schema_arrow, description)
            before = 0
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                at, before = before, before + rows
                if before <= start:
                    continue
                done = size * (group + 1) // file.num_row_groups
                for batch in file.iter_batches(
                    piece_rows, [group], list(description.used), use_threads=False
                ):
                    # A run goes on at the end of an earlier piece, which may lie within a batch
                    # where that run had pieces of another size.
                    table = pa.Table.from_batches([batch]).slice(max(0, start - at))
                    at += batch.num_rows
                    if table.num_rows:
                        begin = at - table.num_rows
                        yield Piece(
                            path,
                            begin,
                            at,
                            begin + 1,
                            with_nulls(table, description.null_values),
                            done,
                        )
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}.") from error


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
