"""Writes spooled rows as the record files of a data set."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np

from tfrecords.conversion.features import Features
from tfrecords.conversion.journal import Journal
from tfrecords.conversion.memory import Memory
from tfrecords.conversion.options import Options, SplitRange
from tfrecords.conversion.packed_rows import LABEL, Field
from tfrecords.conversion.plan import Plan
from tfrecords.conversion.shuffle import Layout, Scattered, Shuffle, day_buckets
from tfrecords.conversion.spool import Spool, SpoolPiece
from tfrecords.dataset_info import FileInfo
from tfrecords.in_order import map_in_order
from tfrecords.progress import Progress
from tfrecords.writer import DatasetWriter


class Writing:
    """Writes the splits one after the other, and goes on where an earlier process was stopped.

    Args:
        folder: The work folder.
        journal: Says what is shuffled already, and is told what else is.
        spool: The rows.
        plan: Which of them go where.
        features: Makes arrays of them.
        options: How to convert.
        memory: How much may be used.
        threads: Threads that work.
        progress: Told what is done.
    """

    def __init__(
        self,
        folder: str,
        journal: Journal,
        spool: Spool,
        plan: Plan,
        features: Features,
        options: Options,
        memory: Memory,
        threads: int,
        progress: Progress,
    ) -> None:
        self._shuffle_folder = os.path.join(folder, "shuffle")
        self._journal = journal
        self._spool = spool
        self._plan = plan
        self._features = features
        self._options = options
        self._memory = memory
        self._threads = threads
        self._progress = progress
        self._finished_rows: dict[str, int] = {}

    def on_file(self, split: str, file: FileInfo, label_sum: float) -> None:
        """To be called when a record file is finished, or was by an earlier process."""
        self._finished_rows[split] = self._finished_rows.get(split, 0) + file.rows

    def run(self, writer: DatasetWriter) -> int:
        """Writes all splits; returns the number of rows of the data set."""
        shuffle = None
        train = self._plan.ranges[0]
        train_rows = self._emitted(train)
        if self._options.shuffle != "none" and writer.rows("train") < train_rows:
            shuffle = self._scatter(train)
        total = sum(self._emitted(part) for part in self._plan.ranges)
        self._progress.begin("Writing", total)
        done = 0
        for part in self._plan.ranges:
            shuffled = shuffle is not None and part is train
            done += writer.rows(part.split)
            for features, label in (
                self._from_buckets(shuffle, writer.rows(part.split))
                if shuffle is not None and shuffled
                else self._in_order(part, writer.rows(part.split))
            ):
                writer.write(part.split, features, label)
                done += len(label)
                self._progress.update(done, done)
            writer.end(part.split)
            if shuffled:
                shutil.rmtree(self._shuffle_folder)
        self._progress.end(done)
        return total

    def _emitted(self, part: SplitRange) -> int:
        pieces = self._spool.between(part.start, part.end)
        return sum(self._plan.emitted(piece, part) for piece in pieces)

    def _in_order(self, part: SplitRange, done: int) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
        """The rows of a split behind the first `done` ones."""
        work = []
        for piece in self._spool.between(part.start, part.end):
            rows = self._plan.emitted(piece, part)
            if rows > done:
                work.append((piece, done))
            done = max(0, done - rows)

        def converted(item: tuple[SpoolPiece, int]) -> tuple[dict[str, Any], np.ndarray]:
            piece, skip = item
            rows = self._spool.read(piece)
            mask = self._plan.mask(piece, rows, part)
            if skip:
                mask = np.ones(piece.rows, np.bool_) if mask is None else mask
                mask[np.flatnonzero(mask)[:skip]] = False
            return self._features(rows, mask)

        yield from map_in_order(converted, work, self._threads)

    def _scatter(self, part: SplitRange) -> Shuffle:
        """Sends the rows of a split to buckets."""
        pieces = self._spool.between(part.start, part.end)
        layouts = self._journal.entries("buckets")
        states = self._journal.entries("shuffled")
        done = states[-1]["pieces"] if states else 0
        if layouts:
            layout = Layout(
                tuple((name, dtype, width) for name, dtype, width in layouts[0]["fields"]),
                tuple(layouts[0]["day_starts"]),
                tuple(layouts[0]["day_buckets"]),
            )
        else:
            layout = self._layout(part, pieces[0])
            self._journal.add(
                "buckets",
                fields=layout.fields,
                day_starts=layout.day_starts,
                day_buckets=layout.day_buckets,
            )
        shuffle = Shuffle(
            self._shuffle_folder,
            layout,
            self._options.seed,
            states[-1]["files"] if states else None,
        )

        def scattered(piece: SpoolPiece) -> Scattered:
            rows = self._spool.read(piece)
            mask = self._plan.mask(piece, rows, part)
            numbers = np.arange(piece.rows) if mask is None else np.flatnonzero(mask)
            features, label = self._features(rows, mask)
            return shuffle.scatter(features, label, numbers + piece.first_row)

        self._progress.begin("Shuffling", part.end)
        work = map_in_order(scattered, pieces[done:], self._threads)
        for number, rows in enumerate(work, done + 1):
            if shuffle.append(rows) or number == len(pieces):
                self._journal.add("shuffled", pieces=number, files=shuffle.flush())
            row = pieces[number - 1].first_row + pieces[number - 1].rows
            self._progress.update(row, row)
        self._progress.end(sum(shuffle.bucket_rows()))
        return shuffle

    def _layout(self, part: SplitRange, first: SpoolPiece) -> Layout:
        features, label = self._features(self._spool.read(first), None)
        fields: list[Field] = []
        row_bytes = 8.0
        for name, array in {**features, LABEL: label}.items():
            if isinstance(array, tuple):
                fields.append((name, "<i8", None))
                row_bytes += 4 + 8 * len(array[0]) / len(label)
            else:
                fields.append((name, array.dtype.str, 1 if array.ndim == 1 else array.shape[1]))
                row_bytes += array.nbytes / len(label)
        starts: list[int] = []
        if self._options.shuffle == "day":
            starts = [int(row) for row in self._plan.days() if part.start < row < part.end]
        day_rows: list[int] = np.diff(np.array([part.start, *starts, part.end])).tolist()
        buckets = day_buckets(day_rows, row_bytes, self._memory.bucket_bytes)
        return Layout(tuple(fields), tuple(starts), buckets)

    def _from_buckets(
        self, shuffle: Shuffle, done: int
    ) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
        """The shuffled rows behind the first `done` ones; removes buckets that are not needed."""
        ends = np.cumsum(shuffle.bucket_rows()).tolist()
        left = [bucket for bucket, end in enumerate(ends) if end > done]
        removed = 0
        for bucket, (features, label) in zip(
            left, map_in_order(shuffle.read, left, self._threads), strict=True
        ):
            skip = max(0, done - (ends[bucket] - len(label)))
            yield _behind(features, label, skip) if skip else (features, label)
            # Not before their rows are in a file that is finished.
            while removed < len(ends) and ends[removed] <= self._finished_rows.get("train", 0):
                shuffle.remove(removed)
                removed += 1


def _behind(
    features: dict[str, Any], label: np.ndarray, skip: int
) -> tuple[dict[str, Any], np.ndarray]:
    cut: dict[str, Any] = {}
    for name, array in features.items():
        if isinstance(array, tuple):
            values, lengths = array
            cut[name] = (values[int(lengths[:skip].sum()) :], lengths[skip:])
        else:
            cut[name] = array[skip:]
    return cut, label[skip:]
