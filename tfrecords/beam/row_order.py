"""The order of a split's rows, and where its files are cut, both known without the rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from tfrecords.hashing import hash_numbers

_CHUNK = 1 << 20
_BUCKET_BITS = 20
_SHIFT = np.uint64(64 - _BUCKET_BITS)


@dataclasses.dataclass(frozen=True)
class RowOrder:
    """The rows of a split as they came, or shuffled by a hash, in files of equal size.

    Attributes:
        starts: Number of the first row of each part that is shuffled by itself, ascending; the
            first is the split's first row.
        seed: None for rows as they came.
        rows_per_file: Rows in every file but the last.
        cuts: For each part the hashes of the rows with which a file begins, but for the first file
            of the split; ascending.
    """

    starts: tuple[int, ...]
    seed: int | None
    rows_per_file: int
    cuts: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, starts: Sequence[int], stop: int, seed: int | None, rows_per_file: int) -> RowOrder:
        """Works out where the files begin.

        The hashes are a function of seed and row, so two passes over the numbers of the rows do,
        some 30 ns a row, and memory for a millionth of them per cut.

        Args:
            starts: As above.
            stop: The number behind the last row.
            seed: As above.
            rows_per_file: As above.
        """
        cuts = []
        ranks: np.ndarray = np.arange(
            starts[0] + rows_per_file, stop, rows_per_file, dtype=np.int64
        )
        for start, end in zip(starts, [*starts[1:], stop], strict=True):
            inside = ranks[(ranks >= start) & (ranks < end)] - start
            cuts.append(
                _hashes_at(seed or 0, start, end, inside if seed is not None else ranks[:0])
            )
        return cls(tuple(starts), seed, rows_per_file, tuple(cuts))

    def _keys(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What rows are ordered by: part and hash, which no two rows of a seed have in common."""
        if self.seed is None:
            return np.zeros(len(rows), np.int64), rows
        parts = np.searchsorted(np.array(self.starts), rows, side="right") - 1
        return parts, hash_numbers(self.seed, rows)

    def permutation(self, rows: np.ndarray) -> np.ndarray:
        """The indices that put rows (their numbers, int64 `[rows]`) in order."""
        parts, keys = self._keys(rows)
        return np.lexsort((keys, parts))

    def files(self, rows: np.ndarray) -> np.ndarray:
        """The number of the file of each row (their numbers, int64 `[rows]`)."""
        if self.seed is None:
            return (rows - self.starts[0]) // self.rows_per_file
        parts, hashes = self._keys(rows)
        files: np.ndarray = np.empty(len(rows), np.int64)
        for part in np.unique(parts):
            inside = parts == part
            first = sum(map(len, self.cuts[:part]))
            files[inside] = first + np.searchsorted(self.cuts[part], hashes[inside], side="right")
        return files


def _hashes_at(seed: int, start: int, stop: int, ranks: np.ndarray) -> np.ndarray:
    """The hashes that stand at some ranks (ascending, int64) among those of the rows from `start`
    to `stop`."""
    if not len(ranks):
        return np.zeros(0, np.uint64)
    sizes: np.ndarray = np.zeros(1 << _BUCKET_BITS, np.int64)
    for _, buckets in _hashes(seed, start, stop):
        sizes += np.bincount(buckets, minlength=len(sizes))
    ends = np.cumsum(sizes)
    bucket = np.searchsorted(ends, ranks, side="right")
    wanted: np.ndarray = np.zeros(len(sizes), np.bool_)
    wanted[bucket] = True
    found = np.sort(
        np.concatenate([hashes[wanted[buckets]] for hashes, buckets in _hashes(seed, start, stop)])
    )
    found_before = np.cumsum(sizes * wanted) - sizes
    result: np.ndarray = found[ranks - (ends - sizes)[bucket] + found_before[bucket]]
    return result


def _hashes(seed: int, start: int, stop: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Hashes of rows, and their highest bits."""
    for first in range(start, stop, _CHUNK):
        hashes = hash_numbers(seed, np.arange(first, min(stop, first + _CHUNK), dtype=np.int64))
        yield hashes, (hashes >> _SHIFT).astype(np.int64)
