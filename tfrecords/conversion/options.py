"""How to convert, whatever the format of the input; and which rows become which split."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfrecords.conversion import multi_hot
from tfrecords.conversion.row_splits import RowSplit
from tfrecords.errors import DataError
from tfrecords.odd_labels import ACCEPT, FAIL
from tfrecords.writer import ROWS_PER_RECORD

LAST_SEVENTH, LAST_DAY, NONE = "last_seventh", "last_day", "none"
FILES = "files"
SHUFFLES = ("none", "day", "total")
DAYS = 7


class MemoryTooSmall(DataError):
    """More memory is needed than `--memory_gb` allows; the work so far can be used again."""


@dataclasses.dataclass(frozen=True)
class SplitRange:
    """Consecutive rows, all or some of which become a split.

    Attributes:
        split: Its name.
        start: The first row, by its number among all rows.
        end: The row behind the last one.
    """

    split: str
    start: int
    end: int


@dataclasses.dataclass(frozen=True)
class Options:
    """How to convert; the flags of `tfrecords.convert_criteo` describe each.

    Attributes:
        split: "last_seventh", "last_day", "none", "files", a share, or as `RowSplit` says.
        vocabulary: "train" or "all"; None for "all" with `reference`, else "train".
        keep_negatives: Share of the rows with label 0 that is kept: of the training rows, or, with
            `reference`, of all rows before they are split.
        multi_hot: Ids per row and column that each column of one id is blown up to; empty: not.
        on_odd_labels: "fail" or "accept", where all labels of a split are alike, or a text of the
            label's description never occurs. The data set does not depend on it.
        held_out_files: With `split` "files": how many of the last input files are the splits
            "evaluation" and "test".
        vocabulary_of: A data set folder: values get the ids that they have there; empty for none.
        extend_vocabulary: Whether values that are not known there get new ids behind the old ones;
            else they are out of the vocabulary.
        memory_gb: About how many gigabytes may be used, beside half a one for TensorFlow itself;
            None for half of the machine's. The data set does not depend on it.

    Raises:
        DataError: If a value is not allowed or two contradict each other.
    """

    min_count: int = 1
    vocabulary: str | None = None
    split: str = LAST_SEVENTH
    tuning: bool = False
    shuffle: str = "none"
    seed: int = 0
    reference: bool = False
    on_bad_row: str = "fail"
    rows_per_record: int = ROWS_PER_RECORD
    keep_negatives: float = 1.0
    multi_hot: tuple[int, ...] = ()
    multi_hot_distribution: str = "uniform"
    on_odd_labels: str = FAIL
    held_out_files: tuple[int, int] = (0, 0)
    vocabulary_of: str = ""
    extend_vocabulary: bool = False
    memory_gb: float | None = None

    def __post_init__(self) -> None:
        if self.vocabulary is None:
            object.__setattr__(self, "vocabulary", "all" if self.reference else "train")
        object.__setattr__(self, "multi_hot", tuple(self.multi_hot))
        object.__setattr__(self, "held_out_files", tuple(self.held_out_files))
        if self.min_count < 1:
            raise DataError(f"--min_count must be at least 1, not {self.min_count}.")
        if self.rows_per_record < 1:
            raise DataError(f"--rows_per_record must be at least 1, not {self.rows_per_record}.")
        if self.vocabulary not in ("train", "all"):
            raise DataError(f"--vocabulary must be train or all, not {self.vocabulary!r}.")
        if self.on_bad_row not in ("fail", "skip"):
            raise DataError(f"--on_bad_row must be fail or skip, not {self.on_bad_row!r}.")
        if self.on_odd_labels not in (FAIL, ACCEPT):
            raise DataError(
                f"--on_odd_labels must be {FAIL} or {ACCEPT}, not {self.on_odd_labels!r}."
            )
        for name, most in (("min_count", 2**62), ("rows_per_record", 2**31), ("seed", 2**62)):
            if abs(getattr(self, name)) > most:
                raise DataError(f"--{name}={getattr(self, name)} is too large; {most} is the most.")
        if self.shuffle not in SHUFFLES:
            raise DataError(f"--shuffle must be none, day or total, not {self.shuffle!r}.")
        if not 0 < self.keep_negatives <= 1:
            raise DataError(
                "--keep_negatives is the share of the negative rows to keep, above 0 and at most "
                f"1, not {self.keep_negatives}."
            )
        if self.memory_gb is not None and not 0 < self.memory_gb <= 1e9:
            raise DataError(
                f"--memory_gb must be a number above 0, not {self.memory_gb}; 1e9 is the most."
            )
        multi_hot.check(self.multi_hot, self.multi_hot_distribution)
        _ = self.fraction
        if self.split == FILES and not any(self.held_out_files):
            raise DataError(
                "--split=files is what --evaluation_input and --test_input ask for; name such "
                "files by them, or choose another --split."
            )
        if any(self.held_out_files) and self.split != FILES:
            raise DataError(
                "--evaluation_input and --test_input name the held-out rows, so "
                f"--split={self.split} contradicts them; leave one of them out."
            )
        if self.tuning and (self.by_row or self.split in (NONE, FILES)):
            raise DataError(
                "--tuning holds out training rows in the way of --split, so it needs another "
                f"--split than {self.split}."
            )
        if self.extend_vocabulary and not self.vocabulary_of:
            raise DataError(
                "--extend_vocabulary says what to do with values that the vocabulary of another "
                "data set does not know; name it by --vocabulary_of."
            )
        if self.reference and self.vocabulary_of:
            raise DataError(
                "--reference counts all values anew, so --vocabulary_of contradicts it; leave one "
                "of them out."
            )
        if self.reference and self.by_row:
            raise DataError(
                "--reference splits rows as the paper's code does, so "
                f"--split={self.split} contradicts it; leave one of them out."
            )
        if self.reference and self.min_count > 1:
            raise DataError(
                f"--reference gives every value an id, so --min_count={self.min_count} contradicts "
                "it; leave one of them out."
            )
        if self.reference and self.vocabulary == "train":
            raise DataError(
                "--reference counts the values of all rows, so --vocabulary=train contradicts it; "
                "use --vocabulary=all or leave it out."
            )

    def describe(self) -> dict[str, Any]:
        """All that the data set depends on, as values that `json.dumps` takes."""
        values = dataclasses.asdict(self)
        del values["memory_gb"], values["on_odd_labels"]
        # As data sets say it that know of no such options.
        if not any(self.held_out_files):
            del values["held_out_files"]
        del values["vocabulary_of"]  # a path, which is no content
        if not self.extend_vocabulary:
            del values["extend_vocabulary"]
        return {**values, "multi_hot": list(self.multi_hot)}

    @property
    def reserved(self) -> int:
        """The first id of a value; those below stand for none."""
        return 0 if self.reference else 1

    @property
    def by_row(self) -> RowSplit | None:
        """The splits, where they are not of consecutive rows."""
        return RowSplit.parse(self.split)

    @property
    def fraction(self) -> float | None:
        """The share of the rows held out, where `split` is a number."""
        if self.by_row or self.split in (LAST_SEVENTH, LAST_DAY, NONE, FILES):
            return None
        try:
            fraction = float(self.split)
        except ValueError:
            fraction = -1.0
        if not 0 < fraction < 1:
            raise DataError(
                f"--split must be {LAST_SEVENTH}, {LAST_DAY}, {NONE}, a share of the rows "
                "between 0 and 1 such as 0.1, or random:, group:, time: or time_from: with what "
                f"is held out behind it, not {self.split!r}."
            )
        return fraction

    def check_files(self, files: int) -> None:
        """Checks that there are as many input files as the split needs.

        Raises:
            DataError: If there are fewer.
        """
        needed = 3 if self.tuning else 2
        if self.split == LAST_DAY and files < needed:
            raise DataError(
                f"--split={LAST_DAY} takes each input file for a day and "
                f"{'leaves out the last one and then ' if self.tuning else ''}holds out the last "
                f"one, so it needs at least {needed} files; --input names {files}."
            )

    def ranges(self, file_rows: Sequence[int]) -> list[SplitRange]:
        """Which rows become which split.

        Args:
            file_rows: Number of rows of each input file, in the order of time.

        Raises:
            DataError: If one of the splits would have no row.
        """
        rows = sum(file_rows)
        if self.split == NONE:
            return [SplitRange("train", 0, rows)]
        if self.split == FILES:
            return self._of_files(file_rows)
        if self.by_row:
            return [SplitRange(split, 0, rows) for split in self.by_row.splits]
        if self.split == LAST_DAY:
            days = list(file_rows[:-1] if self.tuning else file_rows)
            train, end = sum(days[:-1]), sum(days)
            half = train + (days[-1] + 1) // 2
            names = ("test", "evaluation") if self.reference else ("evaluation", "test")
            ranges = [
                SplitRange("train", 0, train),
                SplitRange(names[0], train, half),
                SplitRange(names[1], half, end),
            ]
        else:
            train, end = self._boundaries(rows)
            ranges = [SplitRange("train", 0, train), SplitRange("evaluation", train, end)]
        if any(part.start >= part.end for part in ranges):
            raise DataError(
                f"The input has {rows} rows, too few for --split={self.split}: one of the splits "
                "would have no row. Use --split=none or more rows."
            )
        return ranges

    def surely_counted(self, file_rows: Sequence[int], files: int) -> int:
        """How many of the first rows are counted for the vocabularies, whatever comes later.

        Args:
            file_rows: Rows so far, of each of the files that have been begun.
            files: Number of all files.
        """
        rows = sum(file_rows)
        if self.split == NONE or (self.vocabulary == "all" and not self.tuning):
            return rows
        if self.split in (LAST_DAY, FILES):
            held_out = sum(self.held_out_files) or 1
            if self.vocabulary == "all":
                held_out = 0
            return sum(file_rows[: files - self.tuning - held_out])
        if self.by_row:
            return 0
        # The boundaries only move up with the number of rows.
        train, end = self._boundaries(rows)
        return end if self.vocabulary == "all" else train

    def days(self, file_rows: Sequence[int]) -> np.ndarray:
        """The rows, int64, at which the days after the first begin.

        A day is an input file where the split says so, else one of seven equal parts of the rows
        that are used, the first ones a row longer where seven does not divide them, as in the
        paper's code.
        """
        if self.split == LAST_DAY:
            sizes = np.array(file_rows, np.int64)
        else:
            quotient, remainder = divmod(self.ranges(file_rows)[-1].end, DAYS)
            sizes = np.array([quotient + (day < remainder) for day in range(DAYS)], np.int64)
        starts: np.ndarray = np.cumsum(sizes)[:-1]
        return starts

    def _of_files(self, file_rows: Sequence[int]) -> list[SplitRange]:
        """Training rows, and those of the files that are held out."""
        evaluation, test = self.held_out_files
        train = len(file_rows) - evaluation - test
        ranges, first, start = [], 0, 0
        for split, count in (("train", train), ("evaluation", evaluation), ("test", test)):
            end = start + sum(file_rows[first : first + count])
            if count and start == end:
                flag = "--input" if split == "train" else f"--{split}_input"
                raise DataError(
                    f"The files of {flag} have no row, so the split {split!r} would be empty."
                )
            if count:
                ranges.append(SplitRange(split, start, end))
            first, start = first + count, end
        return ranges

    def _boundaries(self, rows: int) -> tuple[int, int]:
        """Where the training rows end, and where the rows end that are used at all."""
        end = rows - self._held_out(rows) if self.tuning else rows
        return end - self._held_out(end), end

    def _held_out(self, rows: int) -> int:
        # The reference cuts divmod(rows, 7) into seven chunks, of which the first `remainder`
        # have one row more; so the last one has rows // 7 rows.
        return rows // DAYS if self.fraction is None else int(rows * self.fraction)
