"""One record: a `tf.train.Example` that holds thousands of rows, column by column.

Every feature is one `bytes` value, little-endian: the label float32 `[rows]`; `dense` float32
`[rows, columns]` row by row; each categorical column its ids, `[rows]` or `[rows, hotness]`; a
ragged one its values, and its row lengths as int32 under the name with `/lengths` behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tfrecords.errors import DataError
from tfrecords.example_message import Example
from tfrecords.schema import CategoricalColumn, Schema

DENSE = "dense"
LENGTHS = "/lengths"


def features(
    schema: Schema, columns: Mapping[str, np.ndarray]
) -> tuple[dict[str, Any], np.ndarray]:
    """Features and label as `DatasetWriter.write` takes them, from the columns of a record."""
    found: dict[str, Any] = {name: columns[name] for name in schema.categorical_names}
    for column in schema.categorical:
        if column.hotness is None:
            found[column.name] = (columns[column.name], columns[column.name + LENGTHS])
    if schema.dense:
        found[DENSE] = columns[DENSE]
    return found, columns[schema.label]


def encode(schema: Schema, columns: Mapping[str, np.ndarray]) -> bytes:
    """Serializes rows that were checked before.

    Args:
        schema: The columns.
        columns: Arrays by feature name; for a ragged column also its `/lengths`.
    """
    example = Example()
    feature = example.features.feature
    for name, dtype in feature_types(schema).items():
        array = np.ascontiguousarray(columns[name], dtype=dtype)
        feature[name].bytes_list.value.append(array.tobytes())
    # A proto map has no order of its own; the same rows have to give the same bytes.
    return example.SerializeToString(deterministic=True)


def decode(schema: Schema, data: bytes) -> dict[str, np.ndarray]:
    """The inverse of `encode`.

    Raises:
        ValueError: If the bytes are no such record; a clause without the file's name.
    """
    try:
        example = Example.FromString(data)
    except Exception as error:  # of protobuf, by whatever implementation
        raise ValueError(f"it is no tf.train.Example ({error})") from error
    columns: dict[str, np.ndarray] = {}
    types = feature_types(schema)
    for name in sorted(set(example.features.feature) - set(types)):
        raise ValueError(f"it has the column {name!r}, which the schema does not have")
    for name, dtype in types.items():
        values = example.features.feature[name].bytes_list.value
        if len(values) != 1:
            raise ValueError(f"it has no column {name!r}")
        if len(values[0]) % dtype.itemsize:
            raise ValueError(
                f"the length of its column {name!r} is no multiple of {dtype.itemsize}"
            )
        columns[name] = np.frombuffer(values[0], dtype)
    rows = len(columns[schema.label])
    if schema.dense:
        columns[DENSE] = _shaped(columns[DENSE], rows, len(schema.dense), DENSE)
    for column in schema.categorical:
        if column.hotness is None:
            lengths = _shaped(columns[column.name + LENGTHS], rows, 1, column.name + LENGTHS)
            if lengths.min(initial=0) < 0 or lengths.sum() != len(columns[column.name]):
                raise ValueError(f"the row lengths of its column {column.name!r} do not fit")
        else:
            values = _shaped(columns[column.name], rows, column.hotness, column.name)
            columns[column.name] = values if column.hotness > 1 else values.reshape(rows)
    return columns


def feature_types(schema: Schema) -> dict[str, np.dtype]:
    """The features of a record and the types of their bytes."""
    types = {schema.label: np.dtype("<f4")}
    if schema.dense:
        types[DENSE] = np.dtype("<f4")
    for column in schema.categorical:
        types[column.name] = column.dtype
        if column.hotness is None:
            types[column.name + LENGTHS] = np.dtype("<i4")
    return types


def check(schema: Schema, columns: Mapping[str, np.ndarray], first_row: int = 0) -> None:
    """Checks the values of rows.

    Args:
        schema: The columns.
        columns: As for `encode`, already of the right shapes.
        first_row: Added to the row numbers in messages.

    Raises:
        DataError: For a NaN or infinite number, an id outside the vocabulary, or a label outside
            [0, 1]; names column, row and value.
    """
    label = columns[schema.label]
    wrong = ~((label >= 0) & (label <= 1))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(
            f"Row {first_row + row} of column {schema.label!r} is {label[row]}; "
            "a label must lie between 0 and 1."
        )
    if schema.dense and not np.isfinite(columns[DENSE]).all():
        row, index = (int(i) for i in np.argwhere(~np.isfinite(columns[DENSE]))[0])
        raise DataError(
            f"Row {first_row + row} of column {schema.dense[index]!r} is "
            f"{columns[DENSE][row, index]}; dense values must be finite numbers."
        )
    for column in schema.categorical:
        ids = columns[column.name]
        if ids.size and (ids.min() < 0 or ids.max() >= column.vocabulary_size):
            _raise_for_id(column, columns, first_row)


def _raise_for_id(
    column: CategoricalColumn, columns: Mapping[str, np.ndarray], first_row: int
) -> None:
    ids = columns[column.name]
    position = np.argwhere((ids < 0) | (ids >= column.vocabulary_size))[0]
    row = int(position[0])
    if column.hotness is None:
        ends = np.cumsum(columns[column.name + LENGTHS])
        row = int(np.searchsorted(ends, row, side="right"))
    raise DataError(
        f"Row {first_row + row} of column {column.name!r} has the id {ids[tuple(position)]}; "
        f"its vocabulary has {column.vocabulary_size} ids, so ids must lie in "
        f"[0, {column.vocabulary_size})."
    )


def _shaped(values: np.ndarray, rows: int, width: int, name: str) -> np.ndarray:
    if len(values) != rows * width:
        raise ValueError(
            f"its column {name!r} has {len(values)} values, where {rows} rows need {rows * width}"
        )
    return values.reshape(rows, width)
