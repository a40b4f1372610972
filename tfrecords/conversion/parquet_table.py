"""Parquet: the columns that are used, some rows of a row group at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from tfrecords.conversion import table_rows, table_values
from tfrecords.conversion.formats import Piece
from tfrecords.conversion.table_description import CategoricalColumn, TableDescription
from tfrecords.conversion.text_table import check_columns
from tfrecords.errors import DataError


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
            _check(path, file.schema_arrow, description)
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
                        yield Piece(path, begin, at, begin + 1, _blanked(table, description), done)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}.") from error


def _check(path: str, schema: pa.Schema, description: TableDescription) -> None:
    check_columns(path, tuple(schema.names), description)
    label = description.label
    _check_type(path, schema.field(label.column), "text" if label.positive_values else "number")
    for dense in description.dense:
        _check_type(path, schema.field(dense.column), "number")
    for column in description.categorical:
        field = schema.field(column.column)
        if column.many and not (column.separator is not None and table_values.is_text(field.type)):
            if not _is_list(field.type):
                raise DataError(
                    f"{path}: the column {column.column!r} is of type {field.type}, where "
                    f"hotness = {'any' if column.hotness is None else column.hotness!r} needs "
                    "lists, or text and a separator."
                )
            field = pa.field(field.name, field.type.value_type)
        _check_type(path, field, _needed(column))


def _needed(column: CategoricalColumn) -> str:
    if column.separator is not None:
        return "any"
    return {"integer": "number", "hexadecimal": "hexadecimal", "datetime": "date"}.get(
        column.kind, "text"
    )


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _check_type(path: str, field: pa.Field, needed: str) -> None:
    kind = field.type
    whole = pa.types.is_integer(kind) or pa.types.is_boolean(kind)
    number = whole or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    text = table_values.is_text(kind)
    allowed, say = {
        "number": (number or text, "numbers or text are needed"),
        "text": (
            whole or text,
            "text or whole numbers are needed (kind = 'integer' takes numbers with a point too, as "
            "long as they are whole)",
        ),
        "hexadecimal": (text, "text is needed for kind = 'hexadecimal'"),
        "date": (
            whole or text or pa.types.is_timestamp(kind) or pa.types.is_date(kind),
            "dates, text or whole numbers are needed",
        ),
        "any": (text or _is_list(kind), "text is needed"),
    }[needed]
    if not allowed:
        raise DataError(f"{path}: the column {field.name!r} is of type {kind}, where {say}.")


def _blanked(table: pa.Table, description: TableDescription) -> pa.Table:
    for index, name in enumerate(table.column_names):
        column = table.column(index)
        if table_values.is_text(column.type) and description.null_values:
            array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
            table = table.set_column(
                index, name, table_rows.blank_out(array, description.null_values)
            )
    return table
