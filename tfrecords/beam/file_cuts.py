"""Where the files of a split are cut, in an order that is known without looking at the rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from tfrecords.hashing import hash_numbers

_CHUNK = 1 << 16
_BUCKET_BITS = 20


@dataclasses.dataclass(frozen=True)
class RowOrder:
    """The order of the rows of a split: as they came, or shuffled by a hash of (seed, row).

    Attributes:
        starts: Position of the first row of each part that is shuffled by itself, ascending; the
            first is the split's first row.
        stop: Position behind its last row.
        seed: None for rows as they came.
    """

    starts: tuple[int, ...]
    stop: int
    seed: int | None

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.stop - self.starts[0]

    def keys(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What rows are ordered by: part, hash, position.

        Args:
            rows: Positions, int64 `[rows]`.
        """
        if self.seed is None:
            zeros: np.ndarray = np.zeros(len(rows), np.int64)
            return zeros, zeros.astype(np.uint64), rows
        parts = np.searchsorted(np.array(self.starts), rows, side="right") - 1
        return parts, hash_numbers(self.seed, rows), rows

    def permutation(self, rows: np.ndarray) -> np.ndarray:
        """The indices that put rows (positions, int64 `[rows]`) in order."""
        parts, hashes, rows = self.keys(rows)
        return np.lexsort((rows, hashes, parts))


@dataclasses.dataclass(frozen=True)
class FileCuts:
    """Which file each row of a split goes to, so that all files but the last have equal size.

    Attributes:
        order: The order of the rows.
        rows_per_file: Rows in every file but the last.
        cuts: Part, hash and position of the first row of each file but the first.
    """

    order: RowOrder
    rows_per_file: int
    cuts: tuple[np.ndarray, np.ndarray, np.ndarray]

    def files(self, rows: np.ndarray) -> np.ndarray:
        """The number of the file of each row (positions, int64 `[rows]`)."""
        if self.order.seed is None:
            return (rows - self.order.starts[0]) // self.rows_per_file
        # A file's number is the number of cuts at or before the row, in the order of (part, hash,
        # position); parts and hashes decide nearly always, and so rows with a cut's very hash are
        # looked at by themselves.
        parts, hashes, _ = self.order.keys(rows)
        cut_parts, cut_hashes, cut_rows = self.cuts
        files: np.ndarray = np.empty(len(rows), np.int64)
        for part in np.unique(parts):
            inside = parts == part
            first = int(np.searchsorted(cut_parts, part, side="left"))
            last = int(np.searchsorted(cut_parts, part, side="right"))
            found = first + np.searchsorted(cut_hashes[first:last], hashes[inside], side="right")
            files[inside] = found
        at_cut = files > 0
        at_cut[at_cut] = (cut_parts[files[at_cut] - 1] == parts[at_cut]) & (
            cut_hashes[files[at_cut] - 1] == hashes[at_cut]
        )
        for index in np.flatnonzero(at_cut):
            while files[index] and (
                (
                    cut_parts[files[index] - 1],
                    cut_hashes[files[index] - 1],
                    cut_rows[files[index] - 1],
                )
                > (parts[index], hashes[index], rows[index])
            ):
                files[index] -= 1
        return files


def file_cuts(order: RowOrder, rows_per_file: int) -> FileCuts:
    """Works out where the files of a split begin.

    The hashes are a function of seed and position, so the cuts are found without the rows: two
    passes over the positions, some 30 ns a row, and memory for a millionth of them per cut.

    Args:
        order: The order of the rows.
        rows_per_file: Rows in every file but the last.
    """
    parts: list[int] = []
    hashes: list[np.ndarray] = [np.zeros(0, np.uint64)]
    rows: list[np.ndarray] = [np.zeros(0, np.int64)]
    if order.seed is not None:
        first = order.starts[0]
        ranks: np.ndarray = np.arange(rows_per_file, order.rows, rows_per_file, dtype=np.int64)
        ends = (*order.starts[1:], order.stop)
        for part, (start, stop) in enumerate(zip(order.starts, ends, strict=True)):
            inside = ranks[(ranks >= start - first) & (ranks < stop - first)] - (start - first)
            if len(inside):
                of_part = _at_ranks(order.seed, start, stop, inside)
                parts += [part] * len(inside)
                hashes.append(of_part[0])
                rows.append(of_part[1])
    return FileCuts(
        order,
        rows_per_file,
        (np.array(parts, np.int64), np.concatenate(hashes), np.concatenate(rows)),
    )


def _at_ranks(seed: int, start: int, stop: int, ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hash and position of the rows at some ranks of the order of (hash, position).

    Args:
        seed: The seed.
        start: The first position.
        stop: The position behind the last.
        ranks: Ascending, int64.
    """
    shift = np.uint64(64 - _BUCKET_BITS)
    sizes: np.ndarray = np.zeros(1 << _BUCKET_BITS, np.int64)
    for _, hashes in _hashes(seed, start, stop):
        np.add.at(sizes, (hashes >> shift).astype(np.int64), 1)
    ends = np.cumsum(sizes)
    buckets = np.unique(np.searchsorted(ends, ranks, side="right"))
    wanted: np.ndarray = np.zeros(1 << _BUCKET_BITS, np.bool_)
    wanted[buckets] = True
    found_rows, found_hashes = [], []
    for rows, hashes in _hashes(seed, start, stop):
        inside = wanted[(hashes >> shift).astype(np.int64)]
        found_rows.append(rows[inside])
        found_hashes.append(hashes[inside])
    all_rows, all_hashes = np.concatenate(found_rows), np.concatenate(found_hashes)
    in_order = np.lexsort((all_rows, all_hashes))
    # The rank of the first row of each wanted bucket, and where it stands among those found.
    bucket_of = np.searchsorted(ends, ranks, side="right")
    first_rank = (ends - sizes)[bucket_of]
    found_before = np.cumsum(np.append(0, sizes[buckets]))[np.searchsorted(buckets, bucket_of)]
    chosen = in_order[ranks - first_rank + found_before]
    return all_hashes[chosen], all_rows[chosen]


def _hashes(seed: int, start: int, stop: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Positions and their hashes, in pieces that stay in the processor's cache."""
    for first in range(start, stop, _CHUNK):
        rows: np.ndarray = np.arange(first, min(stop, first + _CHUNK), dtype=np.int64)
        yield rows, hash_numbers(seed, rows)
