"""Which of the spooled rows are counted, and which are written to which split."""

from __future__ import annotations

import dataclasses

import numpy as np

from tfrecords.conversion.encoding import EncodedRows
from tfrecords.conversion.options import Options, SplitRange
from tfrecords.conversion.row_splits import RowSplit
from tfrecords.conversion.sampling import check_kept, kept
from tfrecords.conversion.spool import Spool, SpoolPiece
from tfrecords.errors import DataError


class Plan:
    """The splits, once all rows are spooled.

    With `--reference`, rows that negative sub-sampling drops are gone before the rows are split, as
    in the paper's code; otherwise only training rows are dropped.

    Args:
        options: How to convert.
        spool: All rows.

    Attributes:
        ranges: The splits by the numbers of rows that were read, dropped ones included.
        counted_part: The rows that are counted.
        end: The row behind the last one that is used.
        dropped: Rows that negative sub-sampling drops.

    Raises:
        DataError: If one of the splits would have no row.
    """

    def __init__(self, options: Options, spool: Spool) -> None:
        self._options = options
        self._spool = spool
        self._by_kept = options.keep_negatives < 1 and options.reference
        self.ranges = [
            SplitRange(part.split, self._row(part.start), self._row(part.end))
            for part in options.ranges(self._file_rows)
        ]
        self.end = self.ranges[-1].end
        train = self.ranges[0].end
        self.counted_part = self.ranges[0]
        if options.vocabulary == "all":
            self.counted_part = SplitRange("", 0, self.end)
        last = self.end if self._by_kept else train
        part = SplitRange("", 0, last)
        kept_rows = sum(self.emitted(piece, part) for piece in spool.between(0, last))
        self._note_dropped(last, kept_rows)

    def _note_dropped(self, rows: int, kept_rows: int) -> None:
        self.dropped = rows - kept_rows
        check_kept(self._options, kept_rows)

    @property
    def counted(self) -> int:
        """The row behind the last one that is counted."""
        return self.counted_part.end

    def counts_all(self, piece: SpoolPiece) -> bool:
        """Whether all rows of a piece are counted, but for those that are dropped."""
        return self.counted >= piece.first_row + piece.rows

    @property
    def _file_rows(self) -> list[int]:
        return self._spool.file_kept if self._by_kept else self._spool.file_rows

    def _row(self, number: int) -> int:
        """The number among all rows of the row of that number among the kept ones."""
        if not self._by_kept:
            return number
        for piece in self._spool.pieces:
            if number < piece.kept:
                mask = self._kept(piece)
                return piece.first_row + int(np.flatnonzero(mask)[number])
            number -= piece.kept
        return self._spool.rows

    def _kept(self, piece: SpoolPiece) -> np.ndarray:
        label = self._spool.read(piece).label
        return kept(label, piece.first_row, self._options.keep_negatives, self._options.seed)

    def days(self) -> np.ndarray:
        """The rows, int64, at which the days after the first begin."""
        starts = self._options.days(self._file_rows)
        return np.array([self._row(int(start)) for start in starts], np.int64)

    def mask(self, piece: SpoolPiece, rows: EncodedRows, part: SplitRange) -> np.ndarray | None:
        """Which rows of a piece are those of a split that are used.

        Args:
            piece: The piece.
            rows: Its rows.
            part: The split, or consecutive rows of any.

        Returns:
            bool `[rows]`, or None for all of them.
        """
        first, last = piece.first_row, piece.first_row + piece.rows
        train = self.ranges[0].end if not self._by_kept else last
        drop = self._options.keep_negatives < 1 and first < train
        if part.start <= first and part.end >= last and not drop:
            return None
        mask: np.ndarray = np.zeros(piece.rows, np.bool_)
        mask[max(0, part.start - first) : max(0, part.end - first)] = True
        if drop:
            there = kept(rows.label, first, self._options.keep_negatives, self._options.seed)
            there[max(0, train - first) :] = True
            mask &= there
        return mask

    def emitted(self, piece: SpoolPiece, part: SplitRange) -> int:
        """How many rows of a piece are those of a split that are used."""
        first, last = piece.first_row, piece.first_row + piece.rows
        train = self.ranges[0].end
        if part.start <= first and part.end >= last and (self._by_kept or part.end <= train):
            return piece.kept
        start = max(part.start, first)
        if self._options.keep_negatives >= 1 or not (self._by_kept or start < train):
            return max(0, min(part.end, last) - start)
        mask = self.mask(piece, self._spool.read(piece), part)
        return piece.rows if mask is None else int(mask.sum())


class RowPlan(Plan):
    """The splits where any row may be of any of them; see `RowSplit`."""

    def __init__(self, options: Options, spool: Spool, split: RowSplit) -> None:
        self._options = options
        self._spool = spool
        self._by_kept = False
        self._split = split
        self._starts = split.starts(spool)
        self.end = spool.rows
        self.ranges = options.ranges(spool.file_rows)
        self.counted_part = self.ranges[0]
        if options.vocabulary == "all":
            self.counted_part = SplitRange("", 0, self.end)
        # Numbers of rows of each piece and split; of those for training, all and the used ones.
        self._emitted: dict[tuple[int, str], int] = {}
        training = 0
        for piece in spool.pieces:
            rows = spool.read(piece)
            training += int((self._codes(piece, rows) == 0).sum())
            for part in (*self.ranges, SplitRange("", 0, self.end)):
                used = self.mask(piece, rows, part).sum()
                self._emitted[piece.first_row, part.split] = int(used)
        for part in self.ranges:
            count = sum(self.emitted(piece, part) for piece in spool.pieces)
            if part.split == "train" and training:
                self._note_dropped(training, count)
            elif not count:
                raise DataError(
                    f"--split={options.split} leaves the split {part.split!r} without a row; say "
                    "another one."
                )

    def counts_all(self, piece: SpoolPiece) -> bool:
        """See `Plan.counts_all`."""
        return not self.counted_part.split

    def mask(self, piece: SpoolPiece, rows: EncodedRows, part: SplitRange) -> np.ndarray:
        """See `Plan.mask`; here `part.split` is looked at, unless it is empty."""
        options = self._options
        codes = self._codes(piece, rows)
        mask = kept(rows.label, piece.first_row, options.keep_negatives, options.seed)
        mask |= codes > 0
        if part.split:
            mask &= codes == self._split.splits.index(part.split)
        return mask

    def emitted(self, piece: SpoolPiece, part: SplitRange) -> int:
        """See `Plan.emitted`."""
        return self._emitted[piece.first_row, part.split]

    def _codes(self, piece: SpoolPiece, rows: EncodedRows) -> np.ndarray:
        return self._split.codes(rows, piece.first_row, self._options.seed, self._starts)


def make_plan(options: Options, spool: Spool) -> Plan:
    """The splits.

    Raises:
        DataError: If one of them would have no row.
    """
    split = options.by_row
    return Plan(options, spool) if split is None else RowPlan(options, spool, split)


def surely_counted(options: Options, spool: Spool, files: int) -> int:
    """How many of the first rows are counted for certain, while more rows are to come."""
    if options.keep_negatives < 1:
        if options.reference:
            # The splits are by numbers that only the kept rows have.
            return 0 if options.tuning else spool.rows
        # Which rows are dropped depends on whether they are for training.
        options = dataclasses.replace(options, vocabulary="train")
    return options.surely_counted(spool.file_rows, files)
