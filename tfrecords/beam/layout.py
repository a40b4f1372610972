"""Where each piece of the input stands, and which of its rows go to which file of which split."""

from __future__ import annotations

import bisect
import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tfrecords.beam.row_order import RowOrder
from tfrecords.conversion import labels
from tfrecords.conversion.formats import BadRow, InputFormat
from tfrecords.conversion.input import bad_row, no_row
from tfrecords.conversion.options import Options, SplitRange
from tfrecords.conversion.sampling import check_kept, kept

# File, and where in it.
PieceKey = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a worker tells about a piece that it parsed.

    Attributes:
        key: The piece.
        first_line: Number of its first line, where the reader knows it.
        lines: Number of lines, good and bad.
        rows: Number of rows.
        bad: Number of lines that are no rows, by kind.
        first_bad: The first of them.
        label_values: As in `Parsed`.
    """

    key: PieceKey
    first_line: int | None
    lines: int
    rows: int
    bad: Mapping[str, int]
    first_bad: BadRow | None
    label_values: Mapping[str, int]


class Place(NamedTuple):
    """The number of a piece among all pieces, and that of its first row among all rows."""

    number: int
    first_row: int


@dataclasses.dataclass(frozen=True)
class Positions:
    """Where all pieces stand.

    Attributes:
        pieces: The place of each.
        file_rows: Number of rows of each file.
        skipped: Number of lines left out, by kind.
        label_values: As in `Parsed`, of all pieces.
    """

    pieces: Mapping[PieceKey, Place]
    file_rows: tuple[int, ...]
    skipped: Mapping[str, int]
    label_values: Mapping[str, int]


def positions(
    summaries: Sequence[Summary], paths: Sequence[str], format: InputFormat, options: Options
) -> Positions:
    """Puts the pieces in order.

    Args:
        summaries: Of all pieces, in any order.
        paths: The files.
        format: What they hold.
        options: How to convert.

    Raises:
        DataError: For the first line that is no row, with its number in the file, unless they are
            skipped; if there is no row at all; and if a described label never occurs.
    """
    pieces: dict[PieceKey, Place] = {}
    file_rows = [0] * len(paths)
    skipped: collections.Counter[str] = collections.Counter()
    label_values: collections.Counter[str] = collections.Counter()
    rows, file, line = 0, -1, 1
    for summary in sorted(summaries, key=lambda summary: summary.key):
        if summary.key[0] != file:
            file, line = summary.key[0], 1
        if summary.first_line is not None:
            line = summary.first_line
        if summary.first_bad is not None and options.on_bad_row != "skip":
            raise bad_row(paths[file], line, summary.first_bad)
        pieces[summary.key] = Place(len(pieces), rows)
        rows += summary.rows
        file_rows[file] += summary.rows
        line += summary.lines
        skipped.update(summary.bad)
        label_values.update(summary.label_values)
    if not rows:
        raise no_row(paths, skipped)
    labels.check_values(format, label_values, options.on_odd_labels)
    return Positions(pieces, tuple(file_rows), dict(skipped), dict(label_values))


# For a piece: how many rows negative sub-sampling keeps of those before each of some numbers of
# rows (among all rows), of which the last is that of the row behind the piece.
KeptRows = tuple[PieceKey, Mapping[int, int]]


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Which rows negative sub-sampling may drop, before it is known how many it does.

    With `--reference` all rows are sampled, and then split; else only the training rows are.

    Attributes:
        options: How to convert.
        end: The row behind the last one that may be dropped, by its number among all rows.
        marks: Rows at which a split or a day begins or ends, likewise, ascending.
    """

    options: Options
    end: int
    marks: tuple[int, ...]

    @classmethod
    def of(cls, options: Options, positions: Positions) -> Sampling:
        """The sampling of a conversion.

        Raises:
            DataError: If one of the splits would have no row.
        """
        if options.keep_negatives >= 1:
            return cls(options, 0, ())
        if options.reference:
            return cls(options, sum(positions.file_rows), ())
        ranges = options.ranges(positions.file_rows)
        marks = {*options.days(positions.file_rows).tolist(), *(part.end for part in ranges)}
        return cls(options, ranges[0].end, tuple(sorted(marks)))

    def mask(self, label: np.ndarray, first_row: int) -> np.ndarray | None:
        """Which rows of a piece are kept, bool `[rows]`; None for all."""
        if first_row >= self.end:
            return None
        mask = kept(label, first_row, self.options.keep_negatives, self.options.seed)
        mask[max(0, self.end - first_row) :] = True
        return mask

    def kept_rows(self, key: PieceKey, label: np.ndarray, first_row: int) -> KeptRows:
        """Counts the rows of a piece that are kept."""
        mask = self.mask(label, first_row)
        end = first_row + len(label)
        marks = [mark for mark in self.marks if first_row < mark < end] + [end]
        return key, {
            mark: mark - first_row if mask is None else int(mask[: mark - first_row].sum())
            for mark in marks
        }


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where every row goes. Rows are numbered anew, without those that are dropped.

    Attributes:
        sampling: Which rows are dropped.
        first_rows: The new number of the first row of each piece that has rows.
        ranges: The splits.
        counted: The row behind the last one that is counted for the vocabularies.
        orders: The order of the rows of each split.
        rows: Number of rows, without those that are dropped.
    """

    sampling: Sampling
    first_rows: Mapping[PieceKey, int]
    ranges: tuple[SplitRange, ...]
    counted: int
    orders: Mapping[str, RowOrder]
    rows: int


def layout(
    options: Options, positions: Positions, kept_rows: Sequence[KeptRows], rows_per_file: int
) -> Layout:
    """Works out where every row goes.

    Args:
        options: How to convert.
        positions: Where the pieces stand.
        kept_rows: For each piece with rows how many are kept; empty where all are.
        rows_per_file: Rows in each file of a split but the last.

    Raises:
        DataError: If one of the splits would have no row.
    """
    sampling = Sampling.of(options, positions)
    first_rows = {key: place.first_row for key, place in positions.pieces.items()}
    file_rows = list(positions.file_rows)
    rows = sum(file_rows)
    new: dict[int, int] = {0: 0}
    if options.keep_negatives < 1:
        first_rows, file_rows, rows = {}, [0] * len(file_rows), 0
        for key, before in sorted(kept_rows):
            first_rows[key] = rows
            new.update({mark: rows + number for mark, number in before.items()})
            of_piece = max(before.values())
            file_rows[key[0]] += of_piece
            rows += of_piece
    if sampling.marks:
        ranges = [
            SplitRange(part.split, new[part.start], new[part.end])
            for part in options.ranges(positions.file_rows)
        ]
        # A mark behind the last row lies in no piece.
        days = [new[day] for day in options.days(positions.file_rows).tolist() if day in new]
    else:
        ranges, days = options.ranges(file_rows), options.days(file_rows).tolist()
    check_kept(options, ranges[0].end)
    orders = {}
    for part in ranges:
        starts, seed = [part.start], None
        if part.split == "train" and options.shuffle != "none":
            seed = options.seed
            if options.shuffle == "day":
                starts += days[: bisect.bisect_left(days, part.end)]
        orders[part.split] = RowOrder.of(starts, part.end, seed, rows_per_file)
    counted = ranges[-1].end if options.vocabulary == "all" else ranges[0].end
    return Layout(sampling, first_rows, tuple(ranges), counted, orders, rows)
