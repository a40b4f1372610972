"""A shuffle of more rows than memory holds."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import google_crc32c
import numpy as np

from tfrecords.errors import DataError
from tfrecords.hashing import hash_numbers

_MOST_BUCKETS = 4096
_FLUSH_BYTES = 1 << 26


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a row lies in a bucket, and which buckets there are.

    Attributes:
        fields: Names of the arrays, with the type of their values and their number in a row (None
            for a ragged one, of which the row holds the length only). The label's name is "".
        day_starts: The rows at which the days after the first begin.
        day_buckets: Number of buckets of each day.
    """

    fields: tuple[tuple[str, str, int | None], ...]
    day_starts: tuple[int, ...]
    day_buckets: tuple[int, ...]

    @property
    def words(self) -> int:
        """32-bit words of a row, its hash included."""
        return 2 + sum(
            1 if width is None else width * np.dtype(dtype).itemsize // 4
            for _, dtype, width in self.fields
        )


@dataclasses.dataclass(frozen=True)
class Scattered:
    """Rows in the order of their buckets, ready to be written.

    Attributes:
        rows: int32 `[rows, words]`.
        ends: Index behind the last row of each bucket, `[buckets]`.
        values: For each ragged array its values in the order of the rows, and the index behind the
            last value of each bucket.
    """

    rows: np.ndarray
    ends: np.ndarray
    values: tuple[tuple[np.ndarray, np.ndarray], ...]


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
        self._ragged = [name for name, _, width in layout.fields if width is None]
        files = self._buckets * (1 + len(self._ragged))
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
        arrays = {**features, "": label}
        hashes = hash_numbers(self._seed, rows)
        words: list[np.ndarray] = [hashes.view(np.int32).reshape(-1, 2)]
        for name, dtype, width in self._layout.fields:
            array = arrays[name]
            if width is None:
                words.append(np.ascontiguousarray(array[1], np.int32).reshape(-1, 1))
            else:
                flat = np.ascontiguousarray(array, dtype).reshape(len(label), width)
                words.append(flat.view(np.int32))
        day = np.searchsorted(np.array(self._layout.day_starts, np.int64), rows, side="right")
        buckets = np.array(self._layout.day_buckets, np.int64)
        first = np.cumsum(buckets) - buckets
        within = ((hashes >> np.uint64(32)) * buckets[day].astype(np.uint64)) >> np.uint64(32)
        bucket = first[day] + within.astype(np.int64)
        order = np.argsort(bucket, kind="stable")
        ends = np.cumsum(np.bincount(bucket, minlength=self._buckets))
        values = []
        for name in self._ragged:
            ids, lengths = arrays[name]
            ordered = _take_ragged(np.asarray(ids, np.int64), np.asarray(lengths), order)
            value_ends = np.concatenate([[0], np.cumsum(np.asarray(lengths)[order])])[ends]
            values.append((ordered, value_ends))
        return Scattered(np.concatenate(words, axis=1)[order], ends, tuple(values))

    def append(self, scattered: Scattered) -> bool:
        """Adds rows; returns whether enough is waiting to be written by `flush`."""
        parts = [(scattered.rows, scattered.ends), *scattered.values]
        for kind, (array, ends) in enumerate(parts):
            start = 0
            for bucket, end in enumerate(ends.tolist()):
                if start < end:
                    data = array[start:end].tobytes()
                    self._waiting.setdefault(kind * self._buckets + bucket, []).append(data)
                    self._waiting_bytes += len(data)
                start = end
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
        width = 4 * self._layout.words
        return [size // width for size, _ in self._state[: self._buckets]]

    def read(self, bucket: int) -> tuple[dict[str, Any], np.ndarray]:
        """Features and label of a bucket in the new order; may be called on any thread.

        Raises:
            DataError: If the bytes are not the ones that were written.
        """
        rows = np.frombuffer(self._read(bucket), np.int32).reshape(-1, self._layout.words)
        hashes = np.ascontiguousarray(rows[:, :2]).view(np.uint64).reshape(-1)
        order = np.argsort(hashes, kind="stable")
        arrived, rows = rows, rows[order]
        columns: dict[str, Any] = {}
        start = 2
        kind = 0
        for name, dtype, width in self._layout.fields:
            words = 1 if width is None else width * np.dtype(dtype).itemsize // 4
            part = np.ascontiguousarray(rows[:, start : start + words])
            start += words
            if width is None:
                kind += 1
                ids = np.frombuffer(self._read(kind * self._buckets + bucket), np.int64)
                lengths = np.ascontiguousarray(arrived[:, start - 1])
                columns[name] = (_take_ragged(ids, lengths, order), part.reshape(-1))
            else:
                values = part.view(dtype)
                # One value a row is a vector, except in `dense`, which is always a matrix.
                columns[name] = values if width > 1 or name == "dense" else values.reshape(-1)
        label = columns.pop("")
        return columns, label

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
        for kind in range(1 + len(self._ragged)):
            path = self._path(kind * self._buckets + bucket)
            if os.path.exists(path):
                os.unlink(path)

    def _path(self, number: int) -> str:
        return os.path.join(self._folder, f"{number:05d}")


def _take_ragged(values: np.ndarray, lengths: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The values of ragged rows, the rows in another order."""
    starts = np.cumsum(lengths) - lengths
    taken = lengths[order]
    within = np.arange(taken.sum()) - np.repeat(np.cumsum(taken) - taken, taken)
    result: np.ndarray = values[np.repeat(starts[order], taken) + within]
    return result


def day_buckets(day_rows: list[int], row_bytes: float, bucket_bytes: int) -> tuple[int, ...]:
    """How many buckets the rows of each day get, so that a bucket fits into memory."""
    wanted = [max(1, -int(-rows * row_bytes // bucket_bytes)) for rows in day_rows]
    most = max(1, _MOST_BUCKETS // len(wanted))
    return tuple(min(buckets, most) for buckets in wanted)
