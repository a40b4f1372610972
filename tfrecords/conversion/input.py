"""The rows of all input files, parsed on threads, in order."""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence

from tfrecords import files
from tfrecords.conversion.encoding import EncodedRows, encode
from tfrecords.conversion.formats import BadRow, InputFormat, Parsed, Piece
from tfrecords.errors import DataError
from tfrecords.in_order import map_in_order
from tfrecords.unchanged import FileState, check_unchanged


@dataclasses.dataclass(frozen=True)
class Place:
    """A place between two pieces of the input.

    Attributes:
        file: Number of the file.
        end: Where in it, as the format counts.
        lines: Lines of the file before it.
    """

    file: int
    end: int
    lines: int


@dataclasses.dataclass(frozen=True)
class InputPiece:
    """A parsed piece.

    Attributes:
        place: Where it ends.
        rows: Its rows; None if it has none.
        skipped: Number of lines left out, by kind.
        label_values: As in `Parsed`.
    """

    place: Place
    rows: EncodedRows | None
    skipped: dict[str, int]
    label_values: Mapping[str, int]


def bad_row(path: str, first_line: int, bad: BadRow) -> DataError:
    """The error of a line that is no row, in a piece that begins with the line `first_line`."""
    return DataError(
        f"Line {first_line + bad.line} of {path} is no row: {bad.what}. "
        "(--on_bad_row=skip leaves such lines out and counts them.)"
    )


def no_row(paths: Sequence[str], skipped: Mapping[str, int]) -> DataError:
    """The error of files without a row, of which so many lines were left out."""
    return DataError(
        f"There is not one row in {', '.join(paths)}: all {sum(skipped.values())} lines were "
        "skipped as bad rows."
    )


class Input:
    """The rows of some files, in the order of the files.

    Args:
        paths: The files.
        format: Their format.
        skip_bad_rows: Whether lines that are no rows are counted and left out, or stop the run.
        threads: Threads that parse.

    Attributes:
        paths: The files.
        sizes: Size of each file.
        total_bytes: Size of all files.

    Raises:
        DataError: If a file is missing or empty.
    """

    def __init__(
        self, paths: list[str], format: InputFormat, skip_bad_rows: bool, threads: int
    ) -> None:
        self.paths = paths
        self._format = format
        self._skip_bad_rows = skip_bad_rows
        self._threads = threads
        if not paths:
            raise DataError("There is no input file.")
        self._states = [FileState.of(path) for path in paths]
        for state in self._states:
            if not state.size:
                raise DataError(f"The input file {state.path!r} is empty.")
        self.sizes = [state.size for state in self._states]
        self.total_bytes = sum(self.sizes)

    def describe(self) -> list[list[object]]:
        """What identifies the files: paths, sizes, times of the last change, inodes."""
        return [
            [files.absolute(state.path), state.size, state.time, state.inode]
            for state in self._states
        ]

    def names(self) -> list[dict[str, object]]:
        """Names and sizes of the files, for people to read."""
        return [
            {"name": os.path.basename(path), "bytes": size}
            for path, size in zip(self.paths, self.sizes, strict=True)
        ]

    def pieces(self, start: Place, progress: Callable[[int, int], None]) -> Iterator[InputPiece]:
        """Yields the pieces from a place on.

        Args:
            start: The place; `Place(0, 0, 0)` for the beginning.
            progress: Called with the bytes that were read and the rows that were yielded.

        Raises:
            DataError: For a line that is no row (unless they are skipped), with file, line number
                from 1, column and value; for a file that cannot be read to its end, or changes
                while it is read.
        """
        try:
            yield from self._pieces(start, progress)
        except (DataError, OSError):
            # What was found wrong may be what somebody is writing at this moment.
            check_unchanged(self._states)
            raise
        check_unchanged(self._states)

    def _pieces(self, start: Place, progress: Callable[[int, int], None]) -> Iterator[InputPiece]:
        file, lines, rows = start.file, start.lines, 0
        for number, piece, parsed, encoded in map_in_order(
            self._parse, self._read(start), self._threads
        ):
            if number != file:
                file, lines = number, 0
            if piece.first_line is not None:
                lines = piece.first_line - 1
            if parsed.bad and not self._skip_bad_rows:
                raise bad_row(piece.path, lines + 1, parsed.bad[0])
            lines += parsed.lines
            yield InputPiece(
                Place(file, piece.end, lines),
                encoded,
                dict(collections.Counter(bad.kind for bad in parsed.bad)),
                parsed.label_values,
            )
            rows += len(encoded) if encoded is not None else 0
            progress(sum(self.sizes[:file]) + piece.bytes_done, rows)

    def _read(self, start: Place) -> Iterator[tuple[int, Piece]]:
        for file in range(start.file, len(self.paths)):
            begin = start.end if file == start.file else 0
            for piece in self._format.pieces(self.paths[file], begin):
                yield file, piece
            # Here too, so that hours of further files are not read in vain.
            check_unchanged(self._states[file : file + 1])

    def _parse(self, work: tuple[int, Piece]) -> tuple[int, Piece, Parsed, EncodedRows | None]:
        file, piece = work
        parsed = self._format.parse(piece)
        rows = encode(parsed.rows) if parsed.rows is not None and len(parsed.rows) else None
        # Not the text, nor the rows, which would be held until the encoded rows are used.
        piece = dataclasses.replace(piece, data=None)
        return file, piece, dataclasses.replace(parsed, rows=None), rows
