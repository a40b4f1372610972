"""From a piece of a table to rows, with the rows that are none."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfrecords.conversion.column_description import CategoricalColumn
from tfrecords.conversion.formats import BadRow
from tfrecords.conversion.rows import Rows
from tfrecords.conversion.table_description import TableDescription
from tfrecords.errors import DataError
from tfrecords.kinds import Text
from tfrecords.kinds.kind import Report, is_text
from tfrecords.kinds.moment import Moment

_Faults = dict[int, tuple[str, str]]


def to_rows(table: pa.Table, description: TableDescription) -> tuple[Rows | None, list[BadRow]]:
    """Converts a table that holds the columns that are used.

    Args:
        table: The table `[rows]`.
        description: What to make of its columns.

    Returns:
        The rows that are rows, in order (None if there is none), and the others, numbered by their
        place in the table.
    """
    rows, faults = _convert(table, description)
    if not faults:
        return (rows if len(rows) else None), []
    bad = [BadRow(index, *fault) for index, fault in sorted(faults.items())]
    if len(bad) == table.num_rows:
        return None, bad
    good: np.ndarray = np.ones(table.num_rows, np.bool_)
    good[list(faults)] = False
    rows, faults = _convert(table.filter(pa.array(good)), description)
    if faults:
        raise DataError(f"A part of the table cannot be converted: {min(faults.items())[1]}.")
    return rows, bad


def _convert(table: pa.Table, description: TableDescription) -> tuple[Rows, _Faults]:
    faults: _Faults = {}
    # The order in which the columns are looked at is that in which faults are reported.
    label = description.label.meaning.read(
        array(table, description.label.column), _to(faults, description.label.column)
    )
    dense: np.ndarray = np.empty((len(description.dense), table.num_rows), np.float32)
    for index, number in enumerate(description.dense):
        of_column = array(table, number.column)
        dense[index] = number.meaning.read(of_column, _to(faults, number.column))
    keys, lengths = [], []
    for column in description.categorical:
        values = array(table, column.column)
        if column.many:
            of_column, of_rows = _many(values, column, description.null_values, faults)
        else:
            of_column, of_rows = column.meaning.keys(values, _to(faults, column.column)), None
        keys.append(of_column)
        lengths.append(of_rows)
    kept = {
        name: _KEPT[name](array(table, column), _to(faults, column))
        for name, column in description.kept.items()
    }
    return Rows(label, dense, tuple(keys), tuple(lengths), kept), faults


def _group(values: pa.Array, report: Report) -> np.ndarray:
    return Text().keys(values, report).view(np.int64)


_KEPT = {"time": Moment().read, "group": _group}


def array(table: pa.Table, name: str) -> pa.Array:
    """A column of a table in one piece."""
    column = table.column(name)
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _to(faults: _Faults, column: str) -> Report:
    """Notes the first fault of each row."""

    def report(row: int, kind: str, what: str) -> None:
        faults.setdefault(row, (kind, f"column {column!r} {what}"))

    return report


def _many(
    array: pa.Array, column: CategoricalColumn, null_values: tuple[str, ...], faults: _Faults
) -> tuple[np.ndarray, np.ndarray | None]:
    """Keys, and values per row where that is no constant, of a column of lists."""
    if column.separator is not None and is_text(array.type):
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        array = pc.split_pattern(array.cast(pa.binary()), column.separator)
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    lengths = lengths.astype(np.int32)
    values = array.flatten()
    if is_text(values.type):
        values = blank_out(values, null_values)
    row_of_value: np.ndarray = np.repeat(np.arange(len(lengths)), lengths)
    report = _to(faults, column.column)

    def of_value(index: int, kind: str, what: str) -> None:
        report(int(row_of_value[index]), kind, f"holds a value that {what}")

    keys = column.meaning.keys(values, of_value)
    if column.hotness is None:
        return keys, lengths
    return _filled_up(keys, lengths, row_of_value, column, report), None


def _filled_up(
    keys: np.ndarray,
    lengths: np.ndarray,
    row_of_value: np.ndarray,
    column: CategoricalColumn,
    report: Report,
) -> np.ndarray:
    """As many values for each row as `column.hotness` says, uint64 `[rows * hotness]`."""
    hotness = int(column.hotness or 1)
    blank = column.meaning.blank
    wrong = lengths > hotness if column.longer == "error" else np.zeros(len(lengths), np.bool_)
    if blank is None:
        wrong = wrong | (lengths < hotness)
    for row in np.flatnonzero(wrong):
        report(
            int(row),
            "number of values",
            f"holds {lengths[row]} values, where "
            f"{'' if blank is None else 'at most '}{hotness} are needed",
        )
    filled: np.ndarray = np.full((len(lengths), hotness), blank or 0, np.uint64)
    within = np.arange(len(keys)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    kept = within < hotness
    filled[row_of_value[kept], within[kept]] = keys[kept]
    return filled.reshape(-1)


def blank_out(array: pa.Array, null_values: tuple[str, ...]) -> pa.Array:
    """Text with nulls where it is one of `null_values`."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if not null_values:
        return array
    nulls = pa.array([value.encode() for value in null_values], pa.binary())
    missing = pc.is_in(array.cast(pa.binary()), value_set=nulls)
    return pc.if_else(missing, pa.scalar(None, array.type), array)
