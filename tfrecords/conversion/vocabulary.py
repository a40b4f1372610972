"""Vocabularies: from the values of a column to ids, built from pieces of any number of rows."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator

import numpy as np

from tfrecords.conversion.formats import InputColumn

_ENTRY_BYTES = 24
# Entries are held about so many times while they are merged.
_MERGE_COPIES = 4


@dataclasses.dataclass(frozen=True)
class Counts:
    """Different values of a column with their number and their first place.

    Attributes:
        keys: Ascending, uint64.
        counts: Number of values of each, int64.
        ranks: A number for each that grows with the place where it occurred first, int64.
    """

    keys: np.ndarray
    counts: np.ndarray
    ranks: np.ndarray

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.keys.nbytes + self.counts.nbytes + self.ranks.nbytes


def _no_counts() -> Counts:
    return Counts(np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros(0, np.int64))


def merged(parts: list[Counts]) -> Counts:
    """Adds up counts, whatever their order; of equal keys the lowest rank stays."""
    keys = np.concatenate([part.keys for part in parts])
    # Stable, and fast for runs that are ordered already.
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])[: len(keys)])
    counts = np.concatenate([part.counts for part in parts])[order]
    ranks = np.concatenate([part.ranks for part in parts])[order]
    return Counts(keys[starts], np.add.reduceat(counts, starts), np.minimum.reduceat(ranks, starts))


class _Run:
    """Counts in a file."""

    def __init__(self, path: str, counts: Counts) -> None:
        self._path = path
        self.size = len(counts.keys)
        with open(path, "wb") as file:
            for array in (counts.keys, counts.counts, counts.ranks):
                file.write(np.ascontiguousarray(array).data)

    def keys(self) -> np.ndarray:
        """The keys as a map of the file."""
        return np.memmap(self._path, np.uint64, "r", 0, (self.size,))

    def part(self, start: int, end: int) -> Counts:
        """Some of the entries."""

        def array(number: int, dtype: type) -> np.ndarray:
            offset = 8 * (number * self.size + start)
            return np.fromfile(self._path, dtype, end - start, offset=offset)

        return Counts(array(0, np.uint64), array(1, np.int64), array(2, np.int64))

    def remove(self) -> None:
        os.unlink(self._path)


class VocabularyBuilder:
    """Counts the values of a column.

    What was added is merged as soon as it outweighs what was merged before, so that every value is
    moved a logarithmic number of times. Memory is bounded by the number of different values, and by
    `spill`, which moves all to disk.

    Args:
        path: Where to put what is spilled; a number is put behind it. Empty where nothing is.
    """

    def __init__(self, path: str = "") -> None:
        self._path = path
        self._merged = _no_counts()
        self._pending: list[Counts] = []
        self._pending_size = 0
        self._runs: list[_Run] = []

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self._merged.nbytes + _ENTRY_BYTES * self._pending_size

    def add(self, counts: Counts) -> None:
        """Adds the counts of a piece."""
        if not len(counts.keys):
            return
        self._pending.append(counts)
        self._pending_size += len(counts.keys)
        if self._pending_size > len(self._merged.keys):
            self.merge()

    def merge(self) -> Counts:
        """Merges what is in memory; returns it."""
        if self._pending:
            self._merged = merged([self._merged, *self._pending])
            self._pending = []
            self._pending_size = 0
        return self._merged

    def spill(self) -> None:
        """Moves what is in memory to disk."""
        self.merge()
        if len(self._merged.keys):
            self._runs.append(_Run(f"{self._path}-{len(self._runs)}", self._merged))
            self._merged = _no_counts()

    def finish(self, min_count: int, merging_bytes: int, most_values: int) -> NewVocabulary:
        """Gives ids to the values, in the order of their first places.

        Args:
            min_count: Values that are fewer get no id.
            merging_bytes: About how much memory to use, where values were spilled.
            most_values: Of more values than these only the number is found.
        """
        parts: Iterator[Counts]
        if not self._runs:
            self.merge()
            parts = iter([self._merged])
        else:
            self.spill()
            parts = (
                merged([run.part(start, end) for run, start, end in part])
                for part in self._partitions(merging_bytes)
            )
        values = 0
        keys: list[np.ndarray] = []
        ranks: list[np.ndarray] = []
        for part in parts:
            kept = part.counts >= min_count
            values += int(kept.sum())
            if values <= most_values:
                keys.append(part.keys[kept])
                ranks.append(part.ranks[kept])
        for run in self._runs:
            run.remove()
        self._merged = _no_counts()
        if values > most_values:
            return NewVocabulary(values, None, None)
        ordered = np.argsort(np.concatenate(ranks), kind="stable")
        ranks.clear()
        ids: np.ndarray = np.empty(values, id_type(values + 1))
        ids[ordered] = np.arange(values, dtype=ids.dtype)
        return NewVocabulary(values, np.concatenate(keys), ids)

    def _partitions(self, merging_bytes: int) -> list[list[tuple[_Run, int, int]]]:
        """Cuts the keys into ranges small enough to be merged in memory, one after the other."""
        total = sum(run.size for run in self._runs)
        ranges = -(-total * _ENTRY_BYTES * _MERGE_COPIES // merging_bytes)
        step = max(1, total // (64 * ranges))
        maps = [run.keys() for run in self._runs]
        sample = np.sort(np.concatenate([keys[::step] for keys in maps]))
        pivots = np.unique(sample[(np.arange(1, ranges) * len(sample)) // ranges])
        cuts = [
            [0, *(int(np.searchsorted(keys, pivot)) for pivot in pivots), run.size]
            for run, keys in zip(self._runs, maps, strict=True)
        ]
        return [
            [(run, cut[i], cut[i + 1]) for run, cut in zip(self._runs, cuts, strict=True)]
            for i in range(len(pivots) + 1)
        ]


@dataclasses.dataclass(frozen=True)
class NewVocabulary:
    """A vocabulary that has just been counted.

    Attributes:
        values: Number of values with an id.
        keys: They, ascending; None where there are more than were asked for.
        ids: The id of each, from 0, in the order of their first places; None likewise.
    """

    values: int
    keys: np.ndarray | None
    ids: np.ndarray | None


def id_type(size: int) -> np.dtype:
    """The type in which a conversion holds ids below `size`."""
    return np.dtype(np.int64 if size >= 2**31 else np.int32)


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """From keys to ids.

    Attributes:
        keys: The keys that have an id, ascending, uint64; None where keys are ids already.
        ids: Their ids; None likewise.
        size: Number of ids.
        reserved: The first id of a key; the ones below it stand for none.
    """

    keys: np.ndarray | None
    ids: np.ndarray | None
    size: int
    reserved: int = 0

    @classmethod
    def counted(cls, keys: np.ndarray, ids: np.ndarray, reserved: int) -> Vocabulary:
        """Ids from `reserved` on, of the keys that `keys` (ascending) and `ids` (from 0) say."""
        return cls(keys, ids, max(1, reserved + len(keys)), reserved)

    @classmethod
    def sized(cls, column: InputColumn, values: int, reserved: int) -> Vocabulary:
        """Only the size of one: of keys that are ids, or of so many that were counted."""
        if column.vocabulary_size is not None:
            return cls(None, None, column.vocabulary_size)
        return cls(None, None, max(1, reserved + values), reserved)

    @classmethod
    def in_order(cls, keys: np.ndarray, reserved: int) -> Vocabulary:
        """Ids from `reserved` on, of keys in the order of their ids."""
        order = np.argsort(keys, kind="stable")
        return cls.counted(keys[order], order.astype(id_type(len(keys) + 1)), reserved)

    def look_up(self, keys: np.ndarray) -> np.ndarray:
        """The ids of keys (uint64, ascending); 0 for keys without one."""
        dtype = id_type(self.size)
        if self.keys is None or self.ids is None:
            return np.minimum(keys, np.uint64(2**63 - 1)).astype(np.int64)
        if not len(self.keys):
            return np.zeros(len(keys), dtype)
        # Ascending queries touch the vocabulary in order, which the caches like.
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        ids = self.ids[places] + dtype.type(self.reserved)
        return np.where(self.keys[places] == keys, ids, dtype.type(0))
