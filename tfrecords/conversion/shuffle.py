"""A shuffle of more rows than memory holds."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import google_crc32c
import numpy as np

from tfrecords.conversion.packed_rows import Field, PackedRows, Packing
from tfrecords.errors import DataError
from tfrecords.hashing import hash_numbers

_MOST_BUCKETS = 4096
_FLUSH_BYTES = 1 << 26


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a row lies in a bucket, and which buckets there are.

    Attributes:
        fields: What is in a row.
        day_starts: The rows at which the days after the first begin.
        day_buckets: Number of buckets of each day.
    """

    fields: tuple[Field, ...]
    day_starts: tuple[int, ...]
    day_buckets: tuple[int, ...]


# Numbers of files, and what is to be written to them.
Scattered = list[tuple[int, bytes]]


class Shuffle:
    """Sorts rows by (day, hash of (seed, row)), in two passes.

    The first pass sends each row to a bucket by its day and the highest bits of its hash; the
    second reads bucket after bucket and sorts it in memory. The order is that of the hashes,
    whatever the number of buckets or the sizes of the pieces that are appended.

    Args:
        folder: A folder for the buckets, which is made where it is missing.
        layout: What comes.
        seed: Another seed is another order.
        state: What `append` handed to its `flushed` last, where an earlier process was stopped.
    """

    def __init__(
        self, folder: str, layout: Layout, seed: int, state: list[list[int]] | None = None
    ) -> None:
        self._folder = folder
        self._layout = layout
        self._seed = seed
        self._buckets = sum(layout.day_buckets)
        self._packing = Packing(layout.fields)
        files = self._buckets * (1 + len(self._packing.ragged))
        # Size and checksum of each file.
        self._state = [list(file) for file in state] if state else [[0, 0] for _ in range(files)]
        self._waiting: dict[int, list[bytes]] = {}
        self._waiting_bytes = 0
        os.makedirs(folder, exist_ok=True)
        for number, (size, _) in enumerate(self._state):
            if os.path.exists(self._path(number)):
                os.truncate(self._path(number), size)

    def scatter(
        self, features: Mapping[str, Any], label: np.ndarray, rows: np.ndarray
    ) -> Scattered:
        """Orders rows by their buckets; may be called on any thread.

        Args:
            features: As for `DatasetWriter.write`.
            label: float32 `[rows]`.
            rows: Their numbers, int64.
        """
        hashes = hash_numbers(self._seed, rows)
        day = np.searchsorted(np.array(self._layout.day_starts, np.int64), rows, side="right")
        buckets = np.array(self._layout.day_buckets, np.int64)
        first = np.cumsum(buckets) - buckets
        within = ((hashes >> np.uint64(32)) * buckets[day].astype(np.uint64)) >> np.uint64(32)
        packed = self._packing.pack(hashes, features, label)
        return [
            (kind * self._buckets + bucket, array.tobytes())
            for bucket, part in self._packing.by_place(packed, first[day] + within.astype(np.int64))
            for kind, array in enumerate((part.words, *part.ragged))
        ]

    def append(self, scattered: Scattered) -> bool:
        """Adds rows; returns whether enough is waiting to be written by `flush`."""
        for number, data in scattered:
            self._waiting.setdefault(number, []).append(data)
            self._waiting_bytes += len(data)
        return self._waiting_bytes >= _FLUSH_BYTES

    def flush(self) -> list[list[int]]:
        """Writes what was added; returns the state from which another process can go on."""
        for number, parts in self._waiting.items():
            data = b"".join(parts)
            with open(self._path(number), "ab") as file:
                file.write(data)
            size, crc = self._state[number]
            self._state[number] = [size + len(data), google_crc32c.extend(crc, data)]
        self._waiting = {}
        self._waiting_bytes = 0
        return self._state

    def bucket_rows(self) -> list[int]:
        """Number of rows of each bucket, in the new order."""
        width = 4 * self._packing.words
        return [size // width for size, _ in self._state[: self._buckets]]

    def read(self, bucket: int) -> tuple[dict[str, Any], np.ndarray]:
        """Features and label of a bucket in the new order; may be called on any thread.

        Raises:
            DataError: If the bytes are not the ones that were written.
        """
        words = np.frombuffer(self._read(bucket), np.int32).reshape(-1, self._packing.words)
        ragged = (
            np.frombuffer(self._read(kind * self._buckets + bucket), dtype)
            for kind, dtype in enumerate(self._packing.ragged, 1)
        )
        packed = PackedRows(words, tuple(ragged))
        order = np.argsort(packed.keys, kind="stable")
        return self._packing.unpack(self._packing.take(packed, order))

    def _read(self, number: int) -> bytes:
        size, crc = self._state[number]
        if not size:
            return b""
        with open(self._path(number), "rb") as file:
            data = file.read(size)
        if google_crc32c.value(data) != crc:
            raise DataError(
                f"The work file {self._path(number)} is not what was written, so it cannot be "
                "used. Run the same command again, which begins anew."
            )
        return data

    def remove(self, bucket: int) -> None:
        """Deletes the files of a bucket."""
        for kind in range(1 + len(self._packing.ragged)):
            path = self._path(kind * self._buckets + bucket)
            if os.path.exists(path):
                os.unlink(path)

    def _path(self, number: int) -> str:
        return os.path.join(self._folder, f"{number:05d}")


def day_buckets(day_rows: list[int], row_bytes: float, bucket_bytes: int) -> tuple[int, ...]:
    """How many buckets the rows of each day get, so that a bucket fits into memory."""
    wanted = [max(1, -int(-rows * row_bytes // bucket_bytes)) for rows in day_rows]
    most = max(1, _MOST_BUCKETS // len(wanted))
    return tuple(min(buckets, most) for buckets in wanted)
