"""Where each piece of the input stands among all of it, once every piece has been parsed."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence

from tfrecords.conversion.formats import BadRow
from tfrecords.errors import DataError

PieceKey = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a worker tells about a piece that it parsed.

    Attributes:
        file: Number of the file, in the order of time.
        start: Where the piece begins in the file.
        first_line: Number of its first line, where the reader knows it.
        lines: Number of lines, good and bad.
        rows: Number of rows.
        bad: Number of lines that are no rows, by kind.
        first_bad: The first of them.
        label_values: As in `Parsed`.
    """

    file: int
    start: int
    first_line: int | None
    lines: int
    rows: int
    bad: Mapping[str, int]
    first_bad: BadRow | None
    label_values: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class PiecePlace:
    """Where a piece stands.

    Attributes:
        number: Its number among all pieces.
        first_row: The number of its first row among all rows.
    """

    number: int
    first_row: int


@dataclasses.dataclass(frozen=True)
class Positions:
    """Where all pieces stand.

    Attributes:
        pieces: By (file, start).
        file_rows: Number of rows of each file.
        skipped: Number of lines left out, by kind.
        label_values: As in `Parsed`, of all pieces.
    """

    pieces: Mapping[PieceKey, PiecePlace]
    file_rows: tuple[int, ...]
    skipped: Mapping[str, int]
    label_values: Mapping[str, int]


def positions(summaries: Sequence[Summary], paths: Sequence[str], skip_bad_rows: bool) -> Positions:
    """Puts the pieces in order.

    Args:
        summaries: Of all pieces, in any order.
        paths: The files.
        skip_bad_rows: Whether lines that are no rows are counted and left out, or are an error.

    Raises:
        DataError: For the first line that is no row, with its number in the file, unless they are
            skipped; and if there is no row at all.
    """
    pieces: dict[PieceKey, PiecePlace] = {}
    file_rows = [0] * len(paths)
    skipped: collections.Counter[str] = collections.Counter()
    label_values: collections.Counter[str] = collections.Counter()
    rows = 0
    file, line = -1, 1
    for summary in sorted(summaries, key=lambda summary: (summary.file, summary.start)):
        if summary.file != file:
            file, line = summary.file, 1
        if summary.first_line is not None:
            line = summary.first_line
        if summary.first_bad is not None and not skip_bad_rows:
            raise DataError(
                f"Line {line + summary.first_bad.line} of {paths[file]} is no row: "
                f"{summary.first_bad.what}. "
                "(--on_bad_row=skip leaves such lines out and counts them.)"
            )
        pieces[file, summary.start] = PiecePlace(len(pieces), rows)
        rows += summary.rows
        file_rows[file] += summary.rows
        line += summary.lines
        skipped.update(summary.bad)
        label_values.update(summary.label_values)
    if not rows:
        raise DataError(
            f"There is not one row in {', '.join(paths)}: all {sum(skipped.values())} lines were "
            "skipped as bad rows."
        )
    return Positions(pieces, tuple(file_rows), dict(skipped), dict(label_values))
