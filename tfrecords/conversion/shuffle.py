"""A total shuffle of more rows than memory holds."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

import numpy as np

from tfrecords.hashing import hash_numbers

_BUCKET_ROWS = 500_000
_MOST_BUCKETS = 256


class TotalShuffle:
    """Sorts rows by a hash of (seed, row), in two passes.

    The first pass sends each row to a bucket by the highest bits of its hash; the second reads
    bucket after bucket and sorts it in memory. The order is that of the hashes, whatever the
    number of buckets or the sizes of the pieces that are appended.

    Args:
        folder: A folder for the buckets, which is made now and removed in the end.
        rows: Number of rows that will come.
        seed: Another seed is another order.
    """

    def __init__(self, folder: str, rows: int, seed: int) -> None:
        self._folder = folder
        self._seed = seed
        self._buckets = max(1, min(_MOST_BUCKETS, -(-rows // _BUCKET_ROWS)))
        self._columns: dict[str, tuple[np.dtype, int]] = {}
        os.mkdir(folder)

    def append(self, features: Mapping[str, np.ndarray], label: np.ndarray, first_row: int) -> None:
        """Adds rows.

        Args:
            features: Arrays of 32-bit values, `[rows]` or `[rows, columns]`.
            label: float32 `[rows]`.
            first_row: Position of the first of them.
        """
        columns = {**features, "": label}
        hashes = self._hashes(first_row, len(label))
        self._columns = {
            name: (column.dtype, 1 if column.ndim == 1 else column.shape[1])
            for name, column in columns.items()
        }
        words: list[np.ndarray] = [hashes.view(np.int32).reshape(len(label), 2)]
        for column in columns.values():
            flat = np.ascontiguousarray(column).reshape(len(label), -1)
            words.append(flat.view(np.int32).reshape(len(label), -1))
        rows = np.concatenate(words, axis=1)
        bucket = ((hashes >> np.uint64(32)) * np.uint64(self._buckets)) >> np.uint64(32)
        order = np.argsort(bucket, kind="stable")
        ends = np.cumsum(np.bincount(bucket.astype(np.int64), minlength=self._buckets))
        rows = rows[order]
        for number, end in enumerate(ends):
            start = ends[number - 1] if number else 0
            if start < end:
                with open(self._path(number), "ab") as file:
                    file.write(rows[start:end].data)

    def rows(self) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
        """Yields features and label of each bucket, in the new order, and removes the buckets."""
        if not self._columns:
            os.rmdir(self._folder)
            return
        shapes = {
            name: (dtype, width * dtype.itemsize // 4)
            for name, (dtype, width) in self._columns.items()
        }
        width = 2 + sum(words for _, words in shapes.values())
        for number in range(self._buckets):
            path = self._path(number)
            if not os.path.exists(path):
                continue
            rows = np.fromfile(path, np.int32).reshape(-1, width)
            hashes = np.ascontiguousarray(rows[:, :2]).view(np.uint64).reshape(-1)
            rows = rows[np.argsort(hashes, kind="stable")]
            columns = {}
            start = 2
            for name, (dtype, words) in shapes.items():
                part = np.ascontiguousarray(rows[:, start : start + words]).view(dtype)
                # One value a row is a vector, except in `dense`, which is always a matrix.
                columns[name] = part if name == "dense" else part.reshape(len(rows), -1)
                if columns[name].shape[1] == 1 and name != "dense":
                    columns[name] = columns[name].reshape(-1)
                start += words
            os.unlink(path)
            label = columns.pop("")
            yield columns, label
        os.rmdir(self._folder)

    def _hashes(self, first_row: int, rows: int) -> np.ndarray:
        return hash_numbers(self._seed, np.arange(first_row, first_row + rows))

    def _path(self, number: int) -> str:
        return os.path.join(self._folder, f"{number:03d}")
