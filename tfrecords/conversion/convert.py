"""From Criteo's text to a data set: parse once, count, write."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np

from tfrecords.conversion.criteo_input import CriteoInput
from tfrecords.conversion.criteo_text import Rows
from tfrecords.conversion.shuffle import TotalShuffle
from tfrecords.conversion.spool import Spool, SpoolPiece
from tfrecords.conversion.vocabulary import (
    BLANK,
    Counts,
    Groups,
    Vocabulary,
    VocabularyBuilder,
    group,
)
from tfrecords.criteo_schema import CATEGORICAL_NAMES, DENSE_NAMES
from tfrecords.dataset_info import DatasetInfo
from tfrecords.errors import DataError
from tfrecords.folder import WholeFolder
from tfrecords.in_order import map_in_order
from tfrecords.progress import Progress
from tfrecords.schema import CategoricalColumn, Schema
from tfrecords.writer import ROWS_PER_RECORD, DatasetWriter

LAST_SEVENTH, NONE = "last_seventh", "none"
_BUCKETIZED = tuple(f"{name}_bucket" for name in DENSE_NAMES)


@dataclasses.dataclass(frozen=True)
class Options:
    """How to convert; the flags of `tfrecords.convert_criteo` describe each.

    Raises:
        DataError: If a value is not allowed or two contradict each other.
    """

    min_count: int = 1
    max_index_range: int = 0
    vocabulary: str = "train"
    split: str = LAST_SEVENTH
    tuning: bool = False
    shuffle: bool = False
    seed: int = 0
    reference: bool = False
    bucketize_dense: bool = False
    on_bad_row: str = "fail"
    rows_per_record: int = ROWS_PER_RECORD

    def __post_init__(self) -> None:
        if self.min_count < 1:
            raise DataError(f"--min_count must be at least 1, not {self.min_count}.")
        if self.max_index_range < 0:
            raise DataError(
                f"--max_index_range must be at least 1, or 0 for none, not {self.max_index_range}."
            )
        if self.rows_per_record < 1:
            raise DataError(f"--rows_per_record must be at least 1, not {self.rows_per_record}.")
        if self.vocabulary not in ("train", "all"):
            raise DataError(f"--vocabulary must be train or all, not {self.vocabulary!r}.")
        if self.on_bad_row not in ("fail", "skip"):
            raise DataError(f"--on_bad_row must be fail or skip, not {self.on_bad_row!r}.")
        _ = self.fraction
        if self.tuning and self.split == NONE:
            raise DataError(
                "--tuning holds out training rows in the way of --split, so it needs another "
                "--split than none."
            )
        if not self.reference:
            return
        if self.min_count > 1:
            raise DataError(
                f"--reference gives every value an id, so --min_count={self.min_count} contradicts "
                "it; leave one of them out."
            )
        if self.vocabulary == "train":
            raise DataError(
                "--reference counts the values of all rows, so --vocabulary=train contradicts it; "
                "use --vocabulary=all or leave it out."
            )
        if self.bucketize_dense:
            raise DataError(
                "--reference keeps the 13 integers as numbers only, so --bucketize_dense "
                "contradicts it; leave one of them out."
            )

    @property
    def fraction(self) -> float | None:
        """The share of the rows held out, where `split` is a number."""
        if self.split in (LAST_SEVENTH, NONE):
            return None
        try:
            fraction = float(self.split)
        except ValueError:
            fraction = -1.0
        if not 0 < fraction < 1:
            raise DataError(
                f"--split must be {LAST_SEVENTH}, {NONE}, or a share of the rows between 0 and 1 "
                f"such as 0.1, not {self.split!r}."
            )
        return fraction

    def boundaries(self, rows: int) -> tuple[int, int]:
        """Where the training rows end, and where the rows end that are used at all.

        Args:
            rows: Number of rows, in the order of time.

        Raises:
            DataError: If one of the splits would have no row.
        """
        if self.split == NONE:
            return rows, rows
        end = rows - self._held_out(rows) if self.tuning else rows
        train = end - self._held_out(end)
        if not 0 < train < end:
            raise DataError(
                f"The input has {rows} rows, too few for --split={self.split}: one of the splits "
                "would have no row. Use --split=none or more rows."
            )
        return train, end

    def _held_out(self, rows: int) -> int:
        # The reference cuts divmod(rows, 7) into seven chunks, of which the first `remainder`
        # have one row more; so the last one has rows // 7 rows.
        return rows // 7 if self.fraction is None else int(rows * self.fraction)


def convert(
    inputs: list[str],
    output_dir: str,
    options: Options,
    progress: Progress,
    threads: int | None = None,
) -> DatasetInfo:
    """Converts Criteo's text to a data set.

    Args:
        inputs: The files, in the order of time.
        output_dir: The folder; see `DatasetWriter`.
        options: How.
        progress: Told what has been done.
        threads: Threads that work; None for one per core.

    Returns:
        What was written.

    Raises:
        DataError: If input, output or options cannot be used.
    """
    threads = threads or os.cpu_count() or 1
    source = CriteoInput(
        inputs,
        options.on_bad_row == "skip",
        threads,
        lambda done, rows: progress.update(done, rows),
    )
    with WholeFolder(output_dir) as folder:
        spool = Spool(os.path.join(folder.work, "spool"))
        progress.begin("Parsing", source.total_bytes)
        for rows in source.rows():
            spool.append(rows)
        spool.end()
        progress.end(spool.rows)
        if source.skipped:
            progress.say(f"Skipped {_counted(source.skipped)}.")
        train, end = options.boundaries(spool.rows)
        counted = end if options.vocabulary == "all" else train
        columns = _Columns(options)
        progress.begin("Counting values", counted)
        vocabularies = columns.vocabularies(spool, counted, threads, progress)
        progress.end(counted)
        writer = DatasetWriter(
            folder,
            columns.schema(vocabularies),
            _how_it_was_made(source, options, spool.rows, end),
            options.rows_per_record,
        )
        with writer:
            progress.begin("Writing", end)
            shuffle = None
            if options.shuffle:
                shuffle = TotalShuffle(os.path.join(folder.work, "shuffle"), train, options.seed)
            _write(writer, columns, vocabularies, spool, (train, end), shuffle, threads, progress)
            spool.remove()
    return DatasetInfo.load(output_dir)


def _write(
    writer: DatasetWriter,
    columns: _Columns,
    vocabularies: list[Vocabulary],
    spool: Spool,
    boundaries: tuple[int, int],
    shuffle: TotalShuffle | None,
    threads: int,
    progress: Progress,
) -> None:
    train, end = boundaries

    def converted(piece: SpoolPiece) -> tuple[SpoolPiece, dict[str, np.ndarray], np.ndarray]:
        rows = spool.read(piece)
        return piece, columns.features(rows, vocabularies), rows.label.astype(np.float32)

    for piece, features, label in map_in_order(converted, spool.pieces_until(end), threads):
        cut = max(0, min(piece.rows, train - piece.first_row))
        last = min(piece.rows, end - piece.first_row)
        if cut:
            rows = {name: column[:cut] for name, column in features.items()}
            if shuffle is None:
                writer.write("train", rows, label[:cut])
            else:
                shuffle.append(rows, label[:cut], piece.first_row)
        if cut < last:
            rows = {name: column[cut:last] for name, column in features.items()}
            writer.write("evaluation", rows, label[cut:last])
        progress.update(piece.first_row + last, piece.first_row + last)
    progress.end(end)
    if shuffle is not None:
        progress.begin("Shuffling", train)
        done = 0
        for features, label in shuffle.rows():
            writer.write("train", features, label)
            done += len(label)
            progress.update(done, done)
        progress.end(train)


class _Columns:
    """The categorical columns that a conversion makes, and the values that stand in them."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self.names = CATEGORICAL_NAMES + (_BUCKETIZED if options.bucketize_dense else ())

    def keys(self, rows: Rows, index: int) -> np.ndarray:
        """The values of a column as numbers: 33 bits, the highest of which says blank."""
        if index >= len(CATEGORICAL_NAMES):
            number = index - len(CATEGORICAL_NAMES)
            keys: np.ndarray = bucketized(rows.integers[number]).view(np.uint32).astype(np.uint64)
            return np.where(rows.blank[number], BLANK, keys)
        keys = rows.categories[index].astype(np.uint64)
        if self._options.max_index_range:
            keys %= np.uint64(self._options.max_index_range)
        if self._options.reference:
            return keys
        return np.where(rows.blank[len(DENSE_NAMES) + index], BLANK, keys)

    def vocabularies(
        self, spool: Spool, until: int, threads: int, progress: Progress
    ) -> list[Vocabulary]:
        """The vocabulary of each column, from the rows before `until`."""
        builders = [VocabularyBuilder() for _ in self.names]

        def counted(piece: SpoolPiece) -> tuple[SpoolPiece, list[Counts]]:
            rows = spool.read(piece)
            last = until - piece.first_row
            return piece, [
                _counts(group(self.keys(rows, index)[:last]), piece.first_row)
                for index in range(len(self.names))
            ]

        for piece, counts in map_in_order(counted, spool.pieces_until(until), threads):
            for builder, of_column in zip(builders, counts, strict=True):
                builder.add(of_column)
            done = min(until, piece.first_row + piece.rows)
            progress.update(done, done)
        reserved = 0 if self._options.reference else 1
        return [builder.finish(self._options.min_count, reserved) for builder in builders]

    def schema(self, vocabularies: list[Vocabulary]) -> Schema:
        """The schema that follows from the vocabularies."""
        out_of_vocabulary = None if self._options.reference else 0
        return Schema(
            dense=DENSE_NAMES,
            categorical=tuple(
                CategoricalColumn(name, vocabulary.size, out_of_vocabulary=out_of_vocabulary)
                for name, vocabulary in zip(self.names, vocabularies, strict=True)
            ),
        )

    def features(self, rows: Rows, vocabularies: list[Vocabulary]) -> dict[str, np.ndarray]:
        """Dense matrix and ids of rows."""
        # In float64 and then rounded once: the same on every machine.
        dense = np.log1p(np.maximum(rows.integers, 0).astype(np.float64)).astype(np.float32)
        features = {"dense": np.ascontiguousarray(dense.T)}
        for index, name in enumerate(self.names):
            features[name] = vocabularies[index].look_up(group(self.keys(rows, index)))
        return features


def bucketized(values: np.ndarray) -> np.ndarray:
    """Whole numbers to buckets as BARS does: `floor(ln(x)**2)` above 2, the number itself else.

    Args:
        values: int32 of any shape.

    Returns:
        int32 of the same shape.
    """
    large = np.floor(np.log(np.maximum(values, 3).astype(np.float64)) ** 2).astype(np.int32)
    return np.where(values > 2, large, values)


def _counts(groups: Groups, first_row: int) -> Counts:
    return Counts(groups.keys, groups.counts, groups.positions[groups.starts] + first_row)


def _counted(skipped: dict[str, int]) -> str:
    return ", ".join(f"{count} lines for their {kind}" for kind, count in sorted(skipped.items()))


def _how_it_was_made(source: CriteoInput, options: Options, rows: int, end: int) -> dict[str, Any]:
    how = dataclasses.asdict(options)
    return {
        "program": "tfrecords.convert_criteo",
        "options": {"format": "kaggle", **how},
        "input": [
            {"name": os.path.basename(path), "bytes": size} for path, size in source.sizes.items()
        ],
        "rows_read": rows,
        "rows_left_out_for_tuning": rows - end,
        "bad_rows_skipped": dict(sorted(source.skipped.items())),
        "dense": "log(1 + max(x, 0)), 0 where blank",
        "ids": (
            "as the code of the DLRM paper: by first occurrence in all rows, blank counts as 0"
            if options.reference
            else "by first occurrence; 0 is out of vocabulary; blank is a value of its own"
        ),
    }
