"""Which of the spooled rows are counted, and which are written to which split."""

from __future__ import annotations

import dataclasses

import numpy as np

from tfrecords.conversion.options import Options, SplitRange
from tfrecords.conversion.sampling import check_kept, kept
from tfrecords.conversion.spool import Spool, SpoolPiece


class Plan:
    """The splits, once all rows are spooled.

    With `--reference`, rows that negative sub-sampling drops are gone before the rows are split, as
    in the paper's code; otherwise only training rows are dropped.

    Args:
        options: How to convert.
        spool: All rows.

    Attributes:
        ranges: The splits by the numbers of rows that were read, dropped ones included.
        counted: The row behind the last one that is counted.
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
        self.counted = self.end if options.vocabulary == "all" else train
        last = self.end if self._by_kept else train
        kept_rows = sum(self.emitted(piece, 0, last) for piece in spool.between(0, last))
        self.dropped = last - kept_rows
        check_kept(options, kept_rows)

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

    def sampled(self, start: int) -> bool:
        """Whether rows are dropped in the split that begins at `start`."""
        return self._options.keep_negatives < 1 and (self._by_kept or start < self.ranges[0].end)

    def mask(self, piece: SpoolPiece, label: np.ndarray, start: int, end: int) -> np.ndarray | None:
        """Which rows of a piece are those of `[start, end)` that are used.

        Args:
            piece: The piece.
            label: Its labels.
            start: The first row, by its number among all rows.
            end: The row behind the last one.

        Returns:
            bool `[rows]`, or None for all of them.
        """
        first, last = piece.first_row, piece.first_row + piece.rows
        train = self.ranges[0].end if not self._by_kept else last
        drop = self._options.keep_negatives < 1 and first < train
        if start <= first and end >= last and not drop:
            return None
        mask: np.ndarray = np.zeros(piece.rows, np.bool_)
        mask[max(0, start - first) : max(0, end - first)] = True
        if drop:
            there = kept(label, first, self._options.keep_negatives, self._options.seed)
            there[max(0, train - first) :] = True
            mask &= there
        return mask

    def emitted(self, piece: SpoolPiece, start: int, end: int) -> int:
        """How many rows of a piece are those of `[start, end)` that are used."""
        first, last = piece.first_row, piece.first_row + piece.rows
        if start <= first and end >= last and (self._by_kept or end <= self.ranges[0].end):
            return piece.kept
        if not self.sampled(max(start, first)):
            return max(0, min(end, last) - max(start, first))
        mask = self.mask(piece, self._spool.read(piece).label, start, end)
        return piece.rows if mask is None else int(mask.sum())


def surely_counted(options: Options, spool: Spool, files: int) -> int:
    """How many of the first rows are counted for certain, while more rows are to come."""
    if options.keep_negatives < 1:
        if options.reference:
            # The splits are by numbers that only the kept rows have.
            return 0 if options.tuning else spool.rows
        # Which rows are dropped depends on whether they are for training.
        options = dataclasses.replace(options, vocabulary="train")
    return options.surely_counted(spool.file_rows, files)
