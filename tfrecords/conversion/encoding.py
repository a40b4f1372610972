"""Rows with each categorical column as a dictionary of its values and codes into it.

The values of a piece are sorted once, on the thread that parsed them. Counting then looks at the
dictionaries only, and writing looks up each different value of a piece once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from tfrecords.conversion.rows import Rows


@dataclasses.dataclass(frozen=True)
class EncodedColumn:
    """A categorical column of a piece.

    Attributes:
        keys: The different keys, ascending, uint64 `[keys]`.
        counts: Number of values of each, int32 `[keys]`.
        firsts: Position, among the values of the piece, of the first of each, int32 `[keys]`.
        codes: For each value the index of its key, unsigned, `[values]`.
        lengths: Values of each row, int32 `[rows]`, where the column is ragged, else None.
    """

    keys: np.ndarray
    counts: np.ndarray
    firsts: np.ndarray
    codes: np.ndarray
    lengths: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class EncodedRows:
    """Rows of a piece.

    Attributes:
        label: float32 `[rows]`.
        dense: float32 `[dense columns, rows]`.
        columns: The categorical columns.
        kept: As of `Rows`.
    """

    label: np.ndarray
    dense: np.ndarray
    columns: tuple[EncodedColumn, ...]
    kept: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.label)


def code_type(keys: int) -> np.dtype:
    """The smallest type that holds the codes of so many keys."""
    return np.dtype("<u1" if keys <= 1 << 8 else "<u2" if keys <= 1 << 16 else "<u4")


def encode(rows: Rows) -> EncodedRows:
    """Sorts the values of each categorical column into a dictionary."""
    return EncodedRows(
        np.asarray(rows.label, np.float32),
        np.asarray(rows.dense, np.float32),
        tuple(
            _column(np.asarray(keys, np.uint64), lengths)
            for keys, lengths in zip(rows.keys, rows.lengths, strict=True)
        ),
        rows.kept,
    )


def _column(keys: np.ndarray, lengths: np.ndarray | None) -> EncodedColumn:
    if lengths is not None:
        lengths = np.asarray(lengths, np.int32)
    bits = max(1, (len(keys) - 1).bit_length())
    if len(keys) and int(keys.max()) >> (64 - bits):
        return _by_hashing(keys, lengths)
    # The position goes below the key in the same 64-bit number, so that one sort of plain numbers
    # gives the dictionary, the first positions and the order.
    packed = (keys << np.uint64(bits)) | np.arange(len(keys), dtype=np.uint64)
    packed.sort()
    ordered = packed >> np.uint64(bits)
    first: np.ndarray = np.empty(len(keys), np.bool_)
    first[:1] = True
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    starts = np.flatnonzero(first)
    positions = (packed & np.uint64((1 << bits) - 1)).astype(np.int64)
    counts = np.diff(starts, append=len(positions))
    dtype = code_type(len(starts))
    codes: np.ndarray = np.empty(len(keys), dtype)
    codes[positions] = np.repeat(np.arange(len(starts), dtype=dtype), counts)
    return EncodedColumn(
        ordered[starts],
        counts.astype(np.int32),
        positions[starts].astype(np.int32),
        codes,
        lengths,
    )


def _by_hashing(keys: np.ndarray, lengths: np.ndarray | None) -> EncodedColumn:
    """For keys of so many bits that no position fits below them."""
    dictionary = pa.array(keys).dictionary_encode()
    different = dictionary.dictionary.to_numpy()
    order = np.argsort(different)
    places: np.ndarray = np.empty(len(order), code_type(len(order)))
    places[order] = np.arange(len(order), dtype=places.dtype)
    codes = places[dictionary.indices.to_numpy()]
    counts, firsts = count(codes, len(different), np.arange(len(codes)))
    return EncodedColumn(
        different[order], counts.astype(np.int32), firsts.astype(np.int32), codes, lengths
    )


def count(codes: np.ndarray, keys: int, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts codes anew, for some of the values of a piece only.

    Args:
        codes: Their codes.
        keys: Number of keys of the dictionary.
        positions: Their positions in the piece, ascending.

    Returns:
        Number of values and position of the first one of each key, int64 `[keys]`; undefined
        position where there is no value.
    """
    firsts: np.ndarray = np.zeros(keys, np.int64)
    # Of equal indices the last one stays, so backwards it is the first one.
    firsts[codes[::-1]] = positions[::-1]
    return np.bincount(codes, minlength=keys), firsts


def value_mask(column: EncodedColumn, rows: np.ndarray, hotness: int) -> np.ndarray:
    """Which values of a column belong to the rows that `rows` (bool `[rows]`) says."""
    if column.lengths is not None:
        return np.repeat(rows, column.lengths)
    return rows if hotness == 1 else np.repeat(rows, hotness)
