"""Cuts text files into ranges that workers read independently, through Beam's file systems."""

from __future__ import annotations

import dataclasses
import gzip
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileMetadata
from apache_beam.io.filesystems import FileSystems

from tfrecords import unchanged
from tfrecords.conversion.formats import InputFormat, Piece
from tfrecords.errors import DataError
from tfrecords.file_kind import check_name, check_text
from tfrecords.unchanged import FileState

_SCHEME = re.compile(r"[a-zA-Z][-a-zA-Z0-9+.]*://")

UNIT_BYTES = 64 << 20
_PIECE_BYTES = 16 << 20
_LINE_BYTES = 1 << 12
_NAME_BYTES = 16
_HEAD_BYTES = 1 << 16
_LONGEST_LINE = 1 << 20
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
    if not _SCHEME.match(path):
        return os.path.isdir(path)
    return not is_file(path) and bool(_matched(FileSystems.join(path, "*"), 1))


def is_file(path: str) -> bool:
    """Whether there is a file."""
    if not _SCHEME.match(path):
        return os.path.isfile(path)
    return [metadata.path for metadata in _matched(path, 2)] == [path]


def states(paths: Sequence[str]) -> list[FileState]:
    """The states of files, by which `check_unchanged` knows them again.

    Raises:
        DataError: If a path names no file, or an empty one.
    """
    found = [_state(path) for path in paths]
    for state in found:
        if not state.size:
            raise DataError(f"The input file {state.path!r} is empty.")
    return found


def check_unchanged(before: Sequence[FileState]) -> None:
    """Checks that files are what they were before they were read.

    Raises:
        DataError: If one was changed, replaced or removed.
    """
    unchanged.check_unchanged(before, _state)


def _state(path: str) -> FileState:
    if not is_file(path):
        raise DataError(
            f"The input file {path!r} does not exist or is no file. (Patterns with '*' are not "
            "read, since the order of the files counts: name each file.)"
        )
    if not _SCHEME.match(path):
        return FileState.of(path)
    found = _matched(path, 1)[0]
    # Object stores write whole objects, so that the time tells one from another.
    return FileState(path, found.size_in_bytes, int(found.last_updated_in_seconds * 1e9), 0)


def _matched(pattern: str, most: int) -> list[FileMetadata]:
    try:
        found: list[FileMetadata] = FileSystems.match([pattern], [most])[0].metadata_list
    except (BeamIOError, ValueError, OSError) as error:
        raise DataError(f"{pattern} cannot be looked up: {error}.") from error
    return found


def cut(
    paths: Sequence[str], bytes_of: Sequence[int], format: InputFormat, unit_bytes: int
) -> list[Unit]:
    """Cuts files into units.

    Args:
        paths: The files.
        bytes_of: Their sizes.
        format: What the files hold. (Compressed files are never cut.)
        unit_bytes: Bytes of a unit; more where there would be too many units.
    """
    step = max(1, unit_bytes, -(-sum(bytes_of) // _MOST_UNITS))
    units = []
    for file, (path, size) in enumerate(zip(paths, bytes_of, strict=True)):
        if not reads_lines(format) or path.endswith(".gz"):
            units.append(Unit(file, path, 0, None))
        else:
            units += [
                Unit(file, path, start, min(size, start + step)) for start in range(0, size, step)
            ]
    return units


def reads_lines(format: InputFormat) -> bool:
    """Whether the pieces of a format are whole lines of text, of which any may be the first."""
    return bool(getattr(format, "lines", False))


def pieces(format: InputFormat, unit: Unit) -> Iterator[Piece]:
    """Yields the pieces of a unit.

    A format that needs more than lines reads whole files by itself; those of other file systems
    are copied to the worker's disk for that.

    Raises:
        DataError: If the file cannot be read to its end.
    """
    if reads_lines(format):
        begin, made = 0, _as_it_is
        from_lines = getattr(format, "from_lines", None)
        if from_lines is not None:
            begin, made = from_lines(unit.path, _head(unit.path))
        for start, text in texts(unit, begin):
            yield made(Piece(unit.path, start, start + len(text), None, text, 0))
    elif not _SCHEME.match(unit.path):
        yield from format.pieces(unit.path)
    else:
        with tempfile.TemporaryDirectory() as folder:
            # Formats know compressed files by the ends of their names.
            copy = os.path.join(folder, unit.path.rsplit("/", 1)[-1])
            with open_raw(unit.path) as source, open(copy, "wb") as target:
                shutil.copyfileobj(source, target, _PIECE_BYTES)
            for piece in format.pieces(copy):
                yield dataclasses.replace(piece, path=unit.path)


def _as_it_is(piece: Piece) -> Piece:
    return piece


def _head(path: str) -> bytes:
    """The first lines of a file."""
    return next(texts(Unit(0, path, 0, _HEAD_BYTES)), (0, b""))[1]


def open_raw(path: str) -> BinaryIO:
    """Opens a file of any file system of Beam's; a compressed one stays as it is."""
    try:
        return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)
    except (BeamIOError, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error


def texts(unit: Unit, begin: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yields whole lines, many at a time, with the byte at which the first of them begins.

    Args:
        unit: The unit.
        begin: The byte at which the first line of the file begins that counts.

    Raises:
        DataError: If the file cannot be read to its end, or is no text.
    """
    with open_raw(unit.path) as raw:
        if unit.start == 0:
            check_name(unit.path, raw.read(_NAME_BYTES))
            raw.seek(0)
        stream: BinaryIO | gzip.GzipFile = raw
        if unit.path.endswith(".gz"):
            stream = gzip.GzipFile(fileobj=raw)
        start, rest = _first_line(unit, begin, stream)
        while unit.end is None or start < unit.end:
            block = _read(stream, unit, start + len(rest))
            if start == begin and unit.start == 0 and not rest:
                check_text(unit.path, block)
            data = rest + block
            if not block and data and not data.endswith(b"\n"):
                data += b"\n"
            last = _end_of_lines(data, None if unit.end is None else unit.end - start)
            if last:
                yield start, data[:last]
            elif len(data) > _LONGEST_LINE:
                raise DataError(
                    f"{unit.path} holds a line of more than {len(data)} bytes, so it is no text of "
                    "rows."
                )
            if not block:
                return
            start, rest = start + last, data[last:]


def _first_line(unit: Unit, begin: int, stream: BinaryIO | gzip.GzipFile) -> tuple[int, bytes]:
    """The byte at which the first line of a unit begins, and what has been read from there on."""
    if unit.start <= begin:
        stream.seek(begin)
        return begin, b""
    # A line that begins exactly at the unit's first byte is known by the newline before it.
    position = unit.start - 1
    stream.seek(position)
    while block := _read(stream, unit, position):
        newline = block.find(b"\n")
        if newline >= 0:
            return position + newline + 1, block[newline + 1 :]
        position += len(block)
    return position, b""


def _end_of_lines(data: bytes, end: int | None) -> int:
    """Behind the last whole line of `data` that begins before `end`; 0 if there is none."""
    if end is not None and len(data) >= end:
        newline = data.find(b"\n", end - 1)
        if newline >= 0:
            return newline + 1
    return data.rfind(b"\n") + 1


def _read(stream: BinaryIO | gzip.GzipFile, unit: Unit, done: int) -> bytes:
    path = unit.path
    size = _PIECE_BYTES
    if unit.end is not None:
        # Little more than what is left of the unit: the end of its last line.
        size = max(_LINE_BYTES, min(size, unit.end - done))
    try:
        return stream.read(size)
    except EOFError:
        raise DataError(
            f"{path} ends in the middle of its compressed data, after about {done} bytes of text: "
            "it is truncated. Fetch it again."
        ) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is no whole gzip file: {error}.") from error
    except (BeamIOError, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
