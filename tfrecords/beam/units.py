"""Cuts text files into ranges that workers read independently, through Beam's file systems."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileMetadata
from apache_beam.io.filesystems import FileSystems

from tfrecords import unchanged
from tfrecords.conversion.formats import InputFormat, Piece
from tfrecords.conversion.text_input import LONGEST_LINE, PIECE_BYTES, text_pieces
from tfrecords.errors import DataError
from tfrecords.input_files import compression
from tfrecords.unchanged import FileState

SCHEME = re.compile(r"[a-zA-Z][-a-zA-Z0-9+.]*://")
UNIT_BYTES = 64 << 20
_KIND = "text of rows"
_LINE_BYTES = 1 << 12
_HEAD_BYTES = 1 << 16
# A pipeline's description holds all units, and some runners refuse one of more than 10 MB.
_MOST_UNITS = 20_000


@dataclasses.dataclass(frozen=True)
class Unit:
    """A range of a file, which one worker reads from its beginning to its end.

    Attributes:
        file: Index of the file, in the order of time.
        path: The file.
        start: The first byte; lines that begin in `[start, end)` belong to the unit.
        end: The byte behind it; None for the whole of a file that can only be read in sequence.
    """

    file: int
    path: str
    start: int
    end: int | None


def is_folder(path: str) -> bool:
    """Whether there is a folder; on an object store a folder is what holds files."""
    if not SCHEME.match(path):
        return os.path.isdir(path)
    return not is_file(path) and bool(_matched(FileSystems.join(path, "*"), 1))


def is_file(path: str) -> bool:
    """Whether there is a file."""
    if not SCHEME.match(path):
        return os.path.isfile(path)
    return [metadata.path for metadata in _matched(path, 2)] == [path]


def state(path: str) -> FileState:
    """The state of a file, by which `check_unchanged` knows it again.

    Raises:
        DataError: If a path names no file, or an empty one.
    """
    if not is_file(path):
        raise DataError(
            f"The input file {path!r} does not exist or is no file. (Patterns with '*' are not "
            "read, since the order of the files counts: name each file.)"
        )
    if SCHEME.match(path):
        found = _matched(path, 1)[0]
        # Object stores write whole objects, so that the time tells one from another.
        written = int(found.last_updated_in_seconds * 1e9)
        result = FileState(path, found.size_in_bytes, written, 0)
    else:
        result = FileState.of(path)
    if not result.size:
        raise DataError(f"The input file {path!r} is empty.")
    return result


def check_unchanged(before: Sequence[FileState]) -> None:
    """Checks that files are what they were before they were read.

    Raises:
        DataError: If one was changed, replaced or removed.
    """
    unchanged.check_unchanged(before, state)


def _matched(pattern: str, most: int) -> list[FileMetadata]:
    try:
        found: list[FileMetadata] = FileSystems.match([pattern], [most])[0].metadata_list
    except (BeamIOError, ValueError, OSError) as error:
        raise DataError(f"{pattern} cannot be looked up: {error}.") from error
    return found


def cut(files: Sequence[FileState], format: InputFormat, unit_bytes: int) -> list[Unit]:
    """Cuts files into units.

    Args:
        files: The files.
        format: What they hold. (Compressed files are never cut.)
        unit_bytes: Bytes of a unit; more where there would be too many units.
    """
    step = max(1, unit_bytes, -(-sum(file.size for file in files) // _MOST_UNITS))
    units = []
    for number, file in enumerate(files):
        if not _reads_lines(format) or compression(file.path):
            units.append(Unit(number, file.path, 0, None))
        else:
            units += [
                Unit(number, file.path, start, min(file.size, start + step))
                for start in range(0, file.size, step)
            ]
    return units


def _reads_lines(format: InputFormat) -> bool:
    """Whether the pieces of a format are whole lines of text, of which any may be the first."""
    return bool(getattr(format, "lines", False))


def pieces(format: InputFormat, unit: Unit) -> Iterator[Piece]:
    """Yields the pieces of a unit.

    A format that needs more than lines reads whole files by itself; those of other file systems
    are copied to the worker's disk for that.

    Raises:
        DataError: If the file cannot be read to its end.
    """
    try:
        if _reads_lines(format):
            from_lines = getattr(format, "from_lines", None)
            if from_lines is None:
                yield from lines(unit)
                return
            head = next(text_pieces(unit.path, 0, _HEAD_BYTES, _KIND, open_raw)).data
            begin, made = from_lines(unit.path, head)
            yield from map(made, lines(unit, begin))
        elif not SCHEME.match(unit.path):
            yield from format.pieces(unit.path)
        else:
            with tempfile.TemporaryDirectory() as folder:
                # Formats know compressed files by the ends of their names.
                copy = os.path.join(folder, unit.path.rsplit("/", 1)[-1])
                with open_raw(unit.path) as source, open(copy, "wb") as target:
                    shutil.copyfileobj(source, target, PIECE_BYTES)
                for piece in format.pieces(copy):
                    yield dataclasses.replace(piece, path=unit.path)
    except BeamIOError as error:
        raise DataError(f"{unit.path} cannot be read: {error}.") from error


def open_raw(path: str) -> BinaryIO:
    """Opens a file of any file system of Beam's; a compressed one stays as it is."""
    try:
        return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)
    except (BeamIOError, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error


def lines(unit: Unit, begin: int = 0) -> Iterator[Piece]:
    """Yields whole lines, many at a time.

    Args:
        unit: The unit.
        begin: The byte at which the first line of the file begins that counts.

    Raises:
        DataError: If the file cannot be read to its end, or is no text.
    """
    start, size = begin, PIECE_BYTES
    if unit.end is not None:
        # So that little more is read than the unit: the end of its last line.
        size = min(size, (unit.end - unit.start) // 4 + _LINE_BYTES)
    if unit.start > begin:
        with open_raw(unit.path) as raw:
            # A line that begins exactly at the unit's first byte is known by the newline before it.
            raw.seek(unit.start - 1)
            start = unit.start - 1 + len(raw.readline(LONGEST_LINE))
    if unit.end is not None and start >= unit.end:
        return
    for piece in text_pieces(unit.path, start, size, _KIND, open_raw):
        if unit.end is None or piece.end < unit.end:
            yield piece
            continue
        last = piece.data.find(b"\n", unit.end - 1 - piece.start) + 1
        yield dataclasses.replace(piece, end=piece.start + last, data=piece.data[:last])
        return
