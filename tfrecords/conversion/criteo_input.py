"""Reads Criteo's text files piece by piece."""

from __future__ import annotations

import collections
import dataclasses
import gzip
import os
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

from tfrecords.conversion import criteo_text
from tfrecords.errors import DataError
from tfrecords.in_order import map_in_order

PIECE_BYTES = 16 << 20
_LONGEST_LINE = 1 << 20


@dataclasses.dataclass(frozen=True)
class _Piece:
    """Whole lines of one file."""

    path: str
    text: bytes
    bytes_done: int


@dataclasses.dataclass(frozen=True)
class _Parsed:
    piece: _Piece
    lines: int
    rows: criteo_text.Rows | None
    bad: list[criteo_text.BadRow]


class CriteoInput:
    """The rows of some files, in the order of the files.

    Args:
        paths: The files; those that end in `.gz` are decompressed.
        skip_bad_rows: Whether lines that are no rows are counted and left out, or stop the run.
        threads: Threads that parse.
        progress: Called with the bytes that were read (of the compressed file) and the rows so far.

    Attributes:
        total_bytes: Size of all files.
        skipped: Number of lines left out, by kind.

    Raises:
        DataError: If a file is missing or cannot be read.
    """

    def __init__(
        self,
        paths: list[str],
        skip_bad_rows: bool,
        threads: int,
        progress: Callable[[int, int], None],
    ) -> None:
        self._paths = paths
        self._skip_bad_rows = skip_bad_rows
        self._threads = threads
        self._progress = progress
        self.skipped: collections.Counter[str] = collections.Counter()
        self.sizes: dict[str, int] = {}
        for path in paths:
            if not os.path.isfile(path):
                raise DataError(f"The input file {path!r} does not exist or is no file.")
            self.sizes[path] = os.path.getsize(path)
            if self.sizes[path] == 0:
                raise DataError(f"The input file {path!r} is empty.")
        self.total_bytes = sum(self.sizes[path] for path in paths)

    def rows(self) -> Iterator[criteo_text.Rows]:
        """Yields the rows of each piece.

        Raises:
            DataError: For a line that is no row (unless they are skipped), with file, line number
                from 1, column and value; for a file that cannot be read to its end; and if there
                is no row at all.
        """
        path = ""
        lines = total = 0
        for parsed in map_in_order(self._parse, self._pieces(), self._threads):
            if parsed.piece.path != path:
                path, lines = parsed.piece.path, 0
            if parsed.bad and not self._skip_bad_rows:
                bad = parsed.bad[0]
                raise DataError(
                    f"Line {lines + bad.line + 1} of {path} is no row: {bad.what}. "
                    "(--on_bad_row=skip leaves such lines out and counts them.)"
                )
            self.skipped.update(bad.kind for bad in parsed.bad)
            lines += parsed.lines
            if parsed.rows is not None:
                total += len(parsed.rows.label)
                yield parsed.rows
            self._progress(parsed.piece.bytes_done, total)
        if not total:
            raise DataError(
                f"There is not one row in {', '.join(self._paths)}: all "
                f"{sum(self.skipped.values())} lines were skipped as bad rows."
            )

    def _parse(self, piece: _Piece) -> _Parsed:
        try:
            rows = criteo_text.parse(piece.text)
            return _Parsed(piece, len(rows.label), rows, [])
        except criteo_text.NotParsed as error:
            good, bad = criteo_text.find_bad_rows(piece.text)
            if not bad:
                raise DataError(f"A part of {piece.path} cannot be parsed: {error}.") from error
        lines = len(good) + len(bad)
        if not good or not self._skip_bad_rows:
            return _Parsed(piece, lines, None, bad)
        rows = criteo_text.parse(b"\n".join(good) + b"\n")
        return _Parsed(piece, lines, rows, bad)

    def _pieces(self) -> Iterator[_Piece]:
        before = 0
        for path in self._paths:
            rest = b""
            read = done = 0
            with open(path, "rb") as raw:
                stream: BinaryIO | gzip.GzipFile = raw
                if path.endswith(".gz"):
                    stream = gzip.GzipFile(fileobj=raw)
                while block := _read(stream, PIECE_BYTES, path, read):
                    read += len(block)
                    done = before + raw.tell()
                    end = block.rfind(b"\n") + 1
                    if end:
                        yield _Piece(path, rest + block[:end], done)
                        rest = block[end:]
                    else:
                        rest += block
                    if len(rest) > max(_LONGEST_LINE, PIECE_BYTES):
                        raise DataError(
                            f"{path} holds a line of more than {len(rest)} bytes, so it is no "
                            "Criteo text."
                        )
                if rest:
                    yield _Piece(path, rest + b"\n", done)
            if not read:
                raise DataError(f"The input file {path!r} is empty.")
            before += self.sizes[path]


def _read(stream: BinaryIO | gzip.GzipFile, size: int, path: str, done: int) -> bytes:
    try:
        return stream.read(size)
    except EOFError:
        raise DataError(
            f"{path} ends in the middle of its compressed data, after about {done} bytes of text: "
            "it is truncated. Fetch it again."
        ) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is no whole gzip file: {error}.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
