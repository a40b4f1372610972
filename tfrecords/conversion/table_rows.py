"""From a piece of a table to rows, with the rows that are none."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfrecords.conversion import table_values
from tfrecords.conversion.formats import BadRow
from tfrecords.conversion.rows import Rows
from tfrecords.conversion.table_description import (
    CategoricalColumn,
    DenseColumn,
    LabelColumn,
    TableDescription,
)
from tfrecords.errors import DataError

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
    label = _label(array(table, description.label.column), description.label, faults)
    dense: np.ndarray = np.empty((len(description.dense), table.num_rows), np.float32)
    for index, number in enumerate(description.dense):
        dense[index] = _dense(array(table, number.column), number, faults)
    keys, lengths = [], []
    for column in description.categorical:
        values = array(table, column.column)
        if column.many:
            of_column, of_rows = _many(values, column, description.null_values, faults)
        else:
            of_column, of_rows = table_values.keys(values, column, _to(faults, column.column)), None
        keys.append(of_column)
        lengths.append(of_rows)
    return Rows(label, dense, tuple(keys), tuple(lengths)), faults


def array(table: pa.Table, name: str) -> pa.Array:
    """A column of a table in one piece."""
    column = table.column(name)
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _to(faults: _Faults, column: str) -> table_values.Report:
    """Notes the first fault of each row."""

    def report(row: int, kind: str, what: str) -> None:
        faults.setdefault(row, (kind, f"column {column!r} {what}"))

    return report


def _label(array: pa.Array, label: LabelColumn, faults: _Faults) -> np.ndarray:
    report = _to(faults, label.column)
    if label.positive_values:
        return _text_label(array, label, report)
    values = table_values.numbers(array, None, lambda row, _, what: report(row, "label", what))
    if label.positive_from is not None:
        return (values >= label.positive_from).astype(np.float32)
    for row in np.flatnonzero((values < 0) | (values > 1)):
        report(int(row), "label", f"is {values[row]:g}, where a number from 0 to 1 is needed")
    return values.astype(np.float32)


def _text_label(array: pa.Array, label: LabelColumn, report: table_values.Report) -> np.ndarray:
    encoded = table_values.encoded(array)
    distinct = encoded.dictionary.to_pylist()
    positive = {value.encode() for value in label.positive_values}
    negative = {value.encode() for value in label.negative_values}
    # 1, 0, or a half where it is neither.
    values = np.array([value in positive for value in distinct], np.float32)
    if negative:
        values[[value not in positive | negative for value in distinct]] = 0.5
    needed = " or ".join(
        table_values.shown(value) for value in (*label.positive_values, *label.negative_values)
    )
    of_rows = table_values.spread(encoded, values, 0.25)
    for row in np.flatnonzero((of_rows > 0) & (of_rows < 1)):
        value = encoded[int(row)].as_py()
        what = "is missing" if value is None else f"is {table_values.shown(value)}"
        report(int(row), "label", f"{what}, where {needed} is needed")
    return of_rows


def _dense(array: pa.Array, column: DenseColumn, faults: _Faults) -> np.ndarray:
    report = _to(faults, column.column)
    values = table_values.numbers(array, column.missing, report)
    if column.transform == "log1p":
        # In float64 and then rounded once: the same on every machine.
        values = np.log1p(np.maximum(values, 0))
    with np.errstate(over="ignore"):
        rounded: np.ndarray = values.astype(np.float32)
    for row in np.flatnonzero(~np.isfinite(rounded)):
        report(int(row), "number", f"is {values[row]:g}, which a number of 32 bits cannot hold")
    return rounded


def _many(
    array: pa.Array, column: CategoricalColumn, null_values: tuple[str, ...], faults: _Faults
) -> tuple[np.ndarray, np.ndarray | None]:
    """Keys, and values per row where that is no constant, of a column of lists."""
    if column.separator is not None and table_values.is_text(array.type):
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        array = pc.split_pattern(array.cast(pa.binary()), column.separator)
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    lengths = lengths.astype(np.int32)
    values = array.flatten()
    if table_values.is_text(values.type):
        values = blank_out(values, null_values)
    row_of_value: np.ndarray = np.repeat(np.arange(len(lengths)), lengths)
    report = _to(faults, column.column)

    def of_value(index: int, kind: str, what: str) -> None:
        report(int(row_of_value[index]), kind, f"holds a value that {what}")

    keys = table_values.keys(values, column, of_value)
    if column.hotness is None:
        return keys, lengths
    return _filled_up(keys, lengths, row_of_value, column, report), None


def _filled_up(
    keys: np.ndarray,
    lengths: np.ndarray,
    row_of_value: np.ndarray,
    column: CategoricalColumn,
    report: table_values.Report,
) -> np.ndarray:
    """As many values for each row as `column.hotness` says, uint64 `[rows * hotness]`."""
    hotness = int(column.hotness or 1)
    blank = table_values.blank_key(column)
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
