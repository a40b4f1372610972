"""What a format of input is to the conversion: whole rows in pieces, parsed on any thread."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from tfrecords.conversion.rows import Rows


@dataclasses.dataclass(frozen=True)
class InputColumn:
    """A categorical column of the input.

    Attributes:
        name: Name of the feature.
        hotness: Values per row; None where each row has a number of its own.
        vocabulary_size: None: ids are made by counting the values. A number: the keys are ids below
            it already and are taken as they are.
        min_count: Values of fewer rows get no id of their own; None for the run's `--min_count`.
    """

    name: str
    hotness: int | None = 1
    vocabulary_size: int | None = None
    min_count: int | None = None


@dataclasses.dataclass(frozen=True)
class Piece:
    """Whole rows of one file, not parsed yet.

    Attributes:
        path: The file.
        start: Where it begins: a byte of the (decompressed) text, or whatever the format counts in.
        end: Where the next piece begins; `InputFormat.pieces(path, start=end)` goes on from there.
        first_line: Number, from 1, of its first line; None where that is not known.
        data: What `InputFormat.parse` needs.
        bytes_done: Bytes of the file on disk that have been read, for progress.
    """

    path: str
    start: int
    end: int
    first_line: int | None
    data: Any
    bytes_done: int


@dataclasses.dataclass(frozen=True)
class BadRow:
    """A line that is no row.

    Attributes:
        line: Its number within the piece, from 0.
        kind: What is wrong, for counting.
        what: What is wrong, as a clause that begins with the column.
    """

    line: int
    kind: str
    what: str


@dataclasses.dataclass(frozen=True)
class Parsed:
    """What is in a piece.

    Attributes:
        lines: Number of lines, good and bad.
        rows: The rows of the good ones, in order; None if there is none.
        bad: The others.
        label_values: What the label column holds as it stands in the file, with the number of rows;
            see `labels.seen`. Empty where the labels say it themselves.
    """

    lines: int
    rows: Rows | None
    bad: list[BadRow]
    label_values: Mapping[str, int] = dataclasses.field(default_factory=dict)


class InputFormat(Protocol):
    """Reads one kind of file.

    A format whose pieces are made of whole lines of text, of which any may be the first one, can
    say so by an attribute `lines = True`: `tfrecords.beam` then reads one file on several workers.
    Where `Piece.data` is more than the bytes of the lines, it needs a method `from_lines` for that;
    see `TabularFormat.from_lines`. One whose description names texts of the label says so by an
    attribute `label_texts`, and counts them in `Parsed.label_values`. One that hands over more of
    each row than features and label says so by an attribute `kept`: the types, as NumPy's texts, of
    what `Rows.kept` holds: of "time", "group" and "weight", in this order.

    Attributes:
        name: Name of the format, as in `--format`.
        label: Name of the label column.
        dense: Names of the dense columns.
        columns: The categorical columns.
    """

    name: str
    label: str
    dense: tuple[str, ...]
    columns: tuple[InputColumn, ...]

    def pieces(self, path: str, start: int = 0) -> Iterator[Piece]:
        """Reads a file from `start` on; runs on one thread.

        Args:
            path: The file.
            start: 0, or the `end` of an earlier piece of the same file.

        Raises:
            DataError: If the file cannot be read to its end, or is empty.
        """
        ...

    def parse(self, piece: Piece) -> Parsed:
        """Parses a piece; runs on any thread, and reports bad rows without raising."""
        ...

    def describe(self) -> dict[str, Any]:
        """Name and options, as values that `json.dumps` takes.

        They go into `dataset.json`, and a conversion that was stopped is taken up again only where
        they are the same. What of them gives values their meaning is known to `meanings`.
        """
        ...


def kept(format: InputFormat) -> dict[str, str]:
    """What else a format hands over of each row: names and types."""
    return dict(getattr(format, "kept", {}))
