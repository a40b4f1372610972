"""Counts the values of each column over all workers, and writes the vocabularies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import apache_beam as beam
import numpy as np

from tfrecords.conversion.vocabulary import Counts, merged
from tfrecords.hashing import hash_numbers

# Parts of a vocabulary, by a hash of the value, that different workers merge.
_PARTS = 16

NOTHING = Counts(np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros(0, np.int64))


class _Accumulator:
    """What was merged, and what has been added since."""

    def __init__(self) -> None:
        self.parts: list[Counts] = []
        self.pending = 0

    def add(self, counts: Counts) -> None:
        """Merges only once what was added outweighs the rest: each value moves log(n) times."""
        self.parts.append(counts)
        self.pending += len(counts.keys)
        if self.pending > len(self.parts[0].keys):
            self.merge()

    def merge(self) -> Counts:
        if self.parts:
            self.parts = [merged(self.parts)]
        self.pending = 0
        return self.parts[0] if self.parts else NOTHING


class MergeCounts(beam.CombineFn):
    """Adds up `Counts`; memory is bounded by the number of different values."""

    def create_accumulator(self) -> _Accumulator:
        """Nothing counted."""
        return _Accumulator()

    def add_input(self, accumulator: _Accumulator, counts: Counts) -> _Accumulator:
        """Adds the counts of a piece."""
        accumulator.add(counts)
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[_Accumulator]) -> _Accumulator:
        """Adds up what several workers have counted."""
        result = _Accumulator()
        for accumulator in accumulators:
            result.add(accumulator.merge())
        return result

    def compact(self, accumulator: _Accumulator) -> _Accumulator:
        """Makes it small before it is sent."""
        accumulator.merge()
        return accumulator

    def extract_output(self, accumulator: _Accumulator) -> Counts:
        """The sums."""
        return accumulator.merge()


def in_parts(column: int, counts: Counts) -> Iterator[tuple[tuple[int, int], Counts]]:
    """Yields the counts of a column as `((column, part), counts)`, for `CombinePerKey`."""
    parts = hash_numbers(counts.keys) % np.uint64(_PARTS)
    for part in np.unique(parts).tolist():
        inside = parts == part
        yield (
            (column, part),
            Counts(counts.keys[inside], counts.counts[inside], counts.ranks[inside]),
        )


def frequent(counts: Counts, min_count: int) -> Counts:
    """The values that occur often enough to get an id."""
    kept = counts.counts >= min_count
    return Counts(counts.keys[kept], counts.counts[kept], counts.ranks[kept])


def in_order_of_ids(parts: Iterable[Counts]) -> np.ndarray:
    """The values of a column in the order of their first occurrence, uint64."""
    all_parts = list(parts)
    keys = np.concatenate([part.keys for part in all_parts])
    ranks = np.concatenate([part.ranks for part in all_parts])
    ordered: np.ndarray = keys[np.argsort(ranks, kind="stable")]
    return ordered
