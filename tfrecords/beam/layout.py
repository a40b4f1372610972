"""Which rows are used, counted, and written to which file of which split."""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from tfrecords.beam.file_cuts import FileCuts, RowOrder, file_cuts
from tfrecords.beam.positions import PieceKey, Positions
from tfrecords.conversion.options import Options, SplitRange
from tfrecords.conversion.sampling import kept


@dataclasses.dataclass(frozen=True)
class KeptRows:
    """How many rows of a piece negative sub-sampling keeps.

    Attributes:
        key: The piece.
        rows: Rows kept of all of it.
        before: For each of the marks that lie in it, the rows kept before the mark.
    """

    key: PieceKey
    rows: int
    before: Mapping[int, int]


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Which rows negative sub-sampling may drop, before it is known how many it does.

    With `--reference` all rows are sampled, and then split; else only the training rows are.

    Attributes:
        options: How to convert.
        end: The row behind the last one that may be dropped, by its number among all rows.
        marks: Rows at which a split or a day begins, likewise, ascending.
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
        rows = sum(positions.file_rows)
        if options.keep_negatives >= 1:
            return cls(options, 0, ())
        if options.reference:
            return cls(options, rows, ())
        ranges = options.ranges(positions.file_rows)
        days = options.days(positions.file_rows).tolist()
        marks = {day for day in days if day < ranges[0].end} | {ranges[0].end}
        return cls(options, ranges[0].end, tuple(sorted(marks)))

    def mask(self, label: np.ndarray, first_row: int) -> np.ndarray | None:
        """Which rows of a piece are kept, bool `[rows]`; None for all."""
        if first_row >= self.end:
            return None
        options = self.options
        mask = kept(label, first_row, options.keep_negatives, options.seed)
        mask[max(0, self.end - first_row) :] = True
        return mask

    def kept_rows(self, key: PieceKey, label: np.ndarray, first_row: int) -> KeptRows:
        """Counts the rows of a piece that are kept."""
        mask = self.mask(label, first_row)
        if mask is None:
            mask = np.ones(len(label), np.bool_)
        inside = [mark for mark in self.marks if first_row <= mark < first_row + len(label)]
        return KeptRows(
            key, int(mask.sum()), {mark: int(mask[: mark - first_row].sum()) for mark in inside}
        )


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where every row goes. Rows are numbered anew, without those that are dropped.

    Attributes:
        sampling: Which rows are dropped.
        first_rows: The new number of the first row of each piece.
        ranges: The splits.
        counted: The row behind the last one that is counted for the vocabularies.
        cuts: How each split is cut into files.
        rows: Number of rows, without those that are dropped.
    """

    sampling: Sampling
    first_rows: Mapping[PieceKey, int]
    ranges: tuple[SplitRange, ...]
    counted: int
    cuts: Mapping[str, FileCuts]
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
    of_piece = {kept.key: kept for kept in kept_rows}
    first_rows: dict[PieceKey, int] = {}
    file_kept = [0] * len(positions.file_rows)
    marks: dict[int, int] = {}
    number = 0
    places = sorted(positions.pieces.items(), key=lambda piece: piece[1].number)
    following = [place.first_row for _, place in places[1:]] + [sum(positions.file_rows)]
    for (key, place), end in zip(places, following, strict=True):
        first_rows[key] = number
        rows = end - place.first_row
        if key in of_piece:
            rows = of_piece[key].rows
            for mark, before in of_piece[key].before.items():
                marks[mark] = number + before
        number += rows
        file_kept[key[0]] += rows
    starts: list[int]
    if sampling.marks:
        # A mark behind the last row lies in no piece.
        ranges, days = options.ranges(positions.file_rows), options.days(positions.file_rows)
        dropped = sum(positions.file_rows) - number
        train = marks.get(ranges[0].end, number)
        ranges = [SplitRange("train", 0, train)] + [
            SplitRange(part.split, part.start - dropped, part.end - dropped) for part in ranges[1:]
        ]
        starts = [marks[day] for day in days.tolist() if day in marks]
    else:
        ranges = options.ranges(file_kept)
        starts = [int(day) for day in options.days(file_kept)]
    cuts = {}
    for part in ranges:
        order = RowOrder((part.start,), part.end, None)
        if part.split == "train" and options.shuffle != "none":
            inside: list[int] = []
            if options.shuffle == "day":
                inside = starts[: bisect.bisect_left(starts, part.end)]
            order = RowOrder((part.start, *inside), part.end, options.seed)
        cuts[part.split] = file_cuts(order, rows_per_file)
    counted = ranges[-1].end if options.vocabulary == "all" else ranges[0].end
    return Layout(sampling, first_rows, tuple(ranges), counted, cuts, number)
