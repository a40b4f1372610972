"""Rows with ids, packed row by row, so that a few rows for each of many files cost little more."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tfrecords import block
from tfrecords.schema import Schema


@dataclasses.dataclass(frozen=True)
class PackedRows:
    """Rows on their way to a file.

    Attributes:
        words: int32 `[rows, words]`: position (two words), label, dense values, and for each
            categorical column its ids, or the number of its values where it is ragged.
        ragged: The values of each ragged column, one row after the other.
    """

    words: np.ndarray
    ragged: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.words)

    @property
    def rows(self) -> np.ndarray:
        """The positions, int64 `[rows]`."""
        return np.ascontiguousarray(self.words[:, :2]).view(np.int64).reshape(-1)


def pack(
    schema: Schema, features: Mapping[str, Any], label: np.ndarray, rows: np.ndarray
) -> PackedRows:
    """Packs rows.

    Args:
        schema: The columns.
        features: As for `DatasetWriter.write`.
        label: float32 `[rows]`.
        rows: Their positions, int64 `[rows]`.
    """
    parts = [_words(rows, np.dtype("<i8")), _words(label, np.dtype("<f4"))]
    if schema.dense:
        parts.append(_words(features[block.DENSE], np.dtype("<f4")))
    ragged = []
    for column in schema.categorical:
        if column.hotness is None:
            values, lengths = features[column.name]
            ragged.append(np.ascontiguousarray(values, column.dtype))
            parts.append(_words(lengths, np.dtype("<i4")))
        else:
            parts.append(_words(features[column.name], column.dtype))
    return PackedRows(np.concatenate(parts, axis=1), tuple(ragged))


def _words(column: np.ndarray, dtype: np.dtype) -> np.ndarray:
    rows = len(column)
    return np.ascontiguousarray(column, dtype).reshape(rows, -1).view(np.int32).reshape(rows, -1)


def unpack(schema: Schema, packed: PackedRows) -> dict[str, np.ndarray]:
    """The columns of packed rows, as `block.encode` takes them."""
    rows = len(packed)
    place = 2

    def column(dtype: np.dtype, width: int) -> np.ndarray:
        nonlocal place
        words = width * dtype.itemsize // 4
        part = np.ascontiguousarray(packed.words[:, place : place + words]).view(dtype)
        place += words
        return part.reshape(rows, width)

    columns = {schema.label: column(np.dtype("<f4"), 1).reshape(rows)}
    if schema.dense:
        columns[block.DENSE] = column(np.dtype("<f4"), len(schema.dense))
    ragged = iter(packed.ragged)
    for of_schema in schema.categorical:
        name = of_schema.name
        if of_schema.hotness is None:
            columns[name + block.LENGTHS] = column(np.dtype("<i4"), 1).reshape(rows)
            columns[name] = next(ragged)
        else:
            ids = column(of_schema.dtype, of_schema.hotness)
            columns[name] = ids if of_schema.hotness > 1 else ids.reshape(rows)
    return columns


def take(schema: Schema, packed: PackedRows, index: np.ndarray) -> PackedRows:
    """The rows at some indices."""
    ragged = []
    places = _length_places(schema)
    for values, place in zip(packed.ragged, places, strict=True):
        lengths: np.ndarray = packed.words[:, place].astype(np.int64)
        starts = np.cumsum(lengths) - lengths
        chosen = lengths[index]
        ends = np.cumsum(chosen)
        within = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - chosen, chosen)
        ragged.append(values[np.repeat(starts[index], chosen) + within])
    return PackedRows(packed.words[index], tuple(ragged))


def concatenate(parts: Sequence[PackedRows]) -> PackedRows:
    """The rows of some parts, one after the other."""
    return PackedRows(
        np.concatenate([part.words for part in parts]),
        tuple(
            np.concatenate([part.ragged[index] for part in parts])
            for index in range(len(parts[0].ragged))
        ),
    )


def _length_places(schema: Schema) -> list[int]:
    """The word that holds the number of values, for each ragged column."""
    place = 3 + len(schema.dense)
    places = []
    for column in schema.categorical:
        if column.hotness is None:
            places.append(place)
            place += 1
        else:
            place += column.hotness * column.dtype.itemsize // 4
    return places


def by_file(
    schema: Schema, packed: PackedRows, files: np.ndarray
) -> Iterator[tuple[int, PackedRows]]:
    """Yields the rows of each file.

    Args:
        schema: The columns.
        packed: The rows.
        files: The number of the file of each, `[rows]`.
    """
    if (files[1:] >= files[:-1]).all():
        ordered = packed
    else:
        order = np.argsort(files, kind="stable")
        files, ordered = files[order], take(schema, packed, order)
    starts = np.flatnonzero(np.append(True, files[1:] != files[:-1]))
    numbers = files[starts].tolist()
    yield from zip(numbers, cut(schema, ordered, starts), strict=True)


def cut(schema: Schema, packed: PackedRows, starts: np.ndarray) -> Iterator[PackedRows]:
    """Yields consecutive parts of rows, which begin at the indices `starts`."""
    ends: np.ndarray = np.append(starts[1:], len(packed))
    value_ends: list[np.ndarray] = [
        np.append(0, np.cumsum(packed.words[:, place], dtype=np.int64))
        for place in _length_places(schema)
    ]
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        yield PackedRows(
            packed.words[start:end],
            tuple(
                values[of_row[start] : of_row[end]]
                for values, of_row in zip(packed.ragged, value_ends, strict=True)
            ),
        )
