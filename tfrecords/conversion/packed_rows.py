"""Rows with ids, packed row by row, so that a few rows for each of many places cost little more."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tfrecords import block
from tfrecords.schema import Schema

LABEL = ""
# Name, type of the values, and their number in a row; None for a ragged one, of which the packed
# row holds the length only.
Field = tuple[str, str, int | None]


@dataclasses.dataclass(frozen=True)
class PackedRows:
    """Rows on their way to a bucket or a file.

    Attributes:
        words: int32 `[rows, words]`: a key of two words, and the fields.
        ragged: The values of each ragged field, one row after the other.
    """

    words: np.ndarray
    ragged: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.words)

    @property
    def keys(self) -> np.ndarray:
        """The keys, uint64 `[rows]`."""
        return np.ascontiguousarray(self.words[:, :2]).view(np.uint64).reshape(-1)


def joined(parts: Sequence[PackedRows]) -> PackedRows:
    """The rows of some parts, one after the other."""
    return PackedRows(
        np.concatenate([part.words for part in parts]),
        tuple(map(np.concatenate, zip(*(part.ragged for part in parts), strict=True))),
    )


class Packing:
    """How a row is packed.

    Args:
        fields: What is in it.

    Attributes:
        words: 32-bit words of a row, the key included.
        ragged: The types of the values of the ragged fields.
    """

    def __init__(self, fields: Sequence[Field]) -> None:
        self._fields = fields
        widths = [
            1 if width is None else width * np.dtype(dtype).itemsize // 4
            for _, dtype, width in fields
        ]
        self._ends = (2 + np.cumsum(widths)).tolist()
        self._starts = [2, *self._ends[:-1]]
        self.words: int = self._ends[-1]
        self.ragged = [np.dtype(dtype) for _, dtype, width in fields if width is None]
        self._length_places = [
            start
            for start, (_, _, width) in zip(self._starts, fields, strict=True)
            if width is None
        ]

    @classmethod
    def of(cls, schema: Schema) -> Packing:
        """How the rows of a data set are packed."""
        fields: list[Field] = [(LABEL, "<f4", 1)]
        if schema.dense:
            fields.append((block.DENSE, "<f4", len(schema.dense)))
        fields += [(column.name, column.dtype.str, column.hotness) for column in schema.categorical]
        return cls(fields)

    def pack(self, keys: np.ndarray, features: Mapping[str, Any], label: np.ndarray) -> PackedRows:
        """Packs rows.

        Args:
            keys: A number for each row, of 64 bits.
            features: As for `DatasetWriter.write`.
            label: float32 `[rows]`.
        """
        words: list[np.ndarray] = [keys.view(np.int32).reshape(-1, 2)]
        ragged = []
        for name, dtype, width in self._fields:
            array = label if name == LABEL else features[name]
            if width is None:
                ragged.append(np.ascontiguousarray(array[0], dtype))
                words.append(np.ascontiguousarray(array[1], np.int32).reshape(-1, 1))
            else:
                flat = np.ascontiguousarray(array, dtype).reshape(len(label), width)
                words.append(flat.view(np.int32))
        return PackedRows(np.concatenate(words, axis=1), tuple(ragged))

    def unpack(self, packed: PackedRows) -> tuple[dict[str, Any], np.ndarray]:
        """Features and label, as `DatasetWriter.write` takes them."""
        features: dict[str, Any] = {}
        ragged = iter(packed.ragged)
        for (name, dtype, width), start, end in zip(
            self._fields, self._starts, self._ends, strict=True
        ):
            part = np.ascontiguousarray(packed.words[:, start:end])
            if width is None:
                features[name] = (next(ragged), part.reshape(-1))
            else:
                values = part.view(dtype)
                # One value a row is a vector, except in `dense`, which is always a matrix.
                flat = width == 1 and name != block.DENSE
                features[name] = values.reshape(-1) if flat else values
        label = features.pop(LABEL)
        return features, label

    def take(self, packed: PackedRows, index: np.ndarray) -> PackedRows:
        """The rows at some indices."""
        ragged = []
        for values, place in zip(packed.ragged, self._length_places, strict=True):
            lengths: np.ndarray = packed.words[:, place].astype(np.int64)
            starts, taken = np.cumsum(lengths) - lengths, lengths[index]
            within = np.arange(taken.sum()) - np.repeat(np.cumsum(taken) - taken, taken)
            ragged.append(values[np.repeat(starts[index], taken) + within])
        return PackedRows(packed.words[index], tuple(ragged))

    def cut(self, packed: PackedRows, starts: np.ndarray) -> Iterator[PackedRows]:
        """Yields consecutive parts, which begin at the ascending indices `starts`."""
        ends = [*starts.tolist()[1:], len(packed)]
        value_ends: list[np.ndarray] = [
            np.append(0, np.cumsum(packed.words[:, place], dtype=np.int64))
            for place in self._length_places
        ]
        for start, end in zip(starts.tolist(), ends, strict=True):
            yield PackedRows(
                packed.words[start:end],
                tuple(
                    values[of_row[start] : of_row[end]]
                    for values, of_row in zip(packed.ragged, value_ends, strict=True)
                ),
            )

    def by_place(self, packed: PackedRows, places: np.ndarray) -> Iterator[tuple[int, PackedRows]]:
        """Yields the rows of each place (int64 `[rows]`) with its number, ascending."""
        if not len(packed):
            return
        if (places[1:] < places[:-1]).any():
            order = np.argsort(places, kind="stable")
            places, packed = places[order], self.take(packed, order)
        starts = np.flatnonzero(np.append(True, places[1:] != places[:-1]))
        yield from zip(places[starts].tolist(), self.cut(packed, starts), strict=True)
