"""Vocabularies: from the values of a column to ids, built from pieces of any number of rows."""

from __future__ import annotations

import dataclasses

import numpy as np

# A key is up to 33 bits (32 of the value, one that says blank); below it, in the same 64-bit
# number, goes the position, so that one sort gives the groups and their first positions.
_POSITION_BITS = 30
BLANK = np.uint64(1 << 32)


@dataclasses.dataclass(frozen=True)
class Groups:
    """The rows of a piece of a column, grouped by value.

    Attributes:
        keys: The different values, ascending, uint64 `[groups]`.
        positions: Positions in the piece, those of one value together, each ascending, `[rows]`.
        starts: Index in `positions` at which each group begins, `[groups]`.
    """

    keys: np.ndarray
    positions: np.ndarray
    starts: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """Rows of each group."""
        return np.diff(self.starts, append=len(self.positions))


def group(keys: np.ndarray) -> Groups:
    """Groups the keys (uint64 `[rows]`) of a piece."""
    packed = (keys << np.uint64(_POSITION_BITS)) | np.arange(len(keys), dtype=np.uint64)
    packed.sort()
    ordered = packed >> np.uint64(_POSITION_BITS)
    first: np.ndarray = np.empty(len(keys), np.bool_)
    first[:1] = True
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    starts = np.flatnonzero(first)
    positions = (packed & np.uint64((1 << _POSITION_BITS) - 1)).astype(np.int64)
    return Groups(ordered[starts], positions, starts)


@dataclasses.dataclass(frozen=True)
class Counts:
    """Different values of a column with their number and their first row.

    Attributes:
        keys: Ascending, uint64.
        counts: Rows that hold each, int64.
        first_rows: The first row that holds each, int64.
    """

    keys: np.ndarray
    counts: np.ndarray
    first_rows: np.ndarray


class VocabularyBuilder:
    """Counts the values of a column.

    Memory is bounded by the number of different values: what was added is merged as soon as it
    outweighs what was merged before, so that every value is moved a logarithmic number of times.
    """

    def __init__(self) -> None:
        self._merged = Counts(np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros(0, np.int64))
        self._pending: list[Counts] = []
        self._pending_size = 0

    def add(self, counts: Counts) -> None:
        """Adds the counts of a piece, which comes after all that were added before."""
        self._pending.append(counts)
        self._pending_size += len(counts.keys)
        if self._pending_size > len(self._merged.keys):
            self._merge()

    def _merge(self) -> None:
        if not self._pending:
            return
        parts = [self._merged, *self._pending]
        keys = np.concatenate([part.keys for part in parts])
        # Stable: of equal keys, the one that was added first stays first, with its first row.
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])[: len(keys)])
        counts = np.concatenate([part.counts for part in parts])[order]
        first_rows = np.concatenate([part.first_rows for part in parts])[order]
        self._merged = Counts(keys[starts], np.add.reduceat(counts, starts), first_rows[starts])
        self._pending = []
        self._pending_size = 0

    def finish(self, min_count: int, reserved: int) -> Vocabulary:
        """Gives ids to the values, in the order of their first rows.

        Args:
            min_count: Values of fewer rows get no id.
            reserved: The first id; the ones below it stand for no value.
        """
        self._merge()
        kept = np.flatnonzero(self._merged.counts >= min_count)
        ids: np.ndarray = np.empty(len(kept), np.int64)
        ids[np.argsort(self._merged.first_rows[kept], kind="stable")] = np.arange(len(kept))
        return Vocabulary(self._merged.keys[kept], ids + reserved, max(1, reserved + len(kept)))


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """From values to ids.

    Attributes:
        keys: The values that have an id, ascending, uint64.
        ids: Their ids, int64.
        size: Number of ids.
    """

    keys: np.ndarray
    ids: np.ndarray
    size: int

    def look_up(self, groups: Groups) -> np.ndarray:
        """The ids of a piece, int32 or int64 `[rows]`; 0 for values without an id."""
        if len(self.keys):
            # Ascending queries touch the vocabulary in order, which the caches like.
            places = np.minimum(np.searchsorted(self.keys, groups.keys), len(self.keys) - 1)
            found = np.where(self.keys[places] == groups.keys, self.ids[places], 0)
        else:
            found = np.zeros(len(groups.keys), np.int64)
        dtype = np.int64 if self.size >= 2**31 else np.int32
        ids: np.ndarray = np.empty(len(groups.positions), dtype)
        ids[groups.positions] = np.repeat(found.astype(dtype), groups.counts)
        return ids
