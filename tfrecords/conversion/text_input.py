"""Reads text files in pieces of whole lines, plain or gzip."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

from tfrecords.conversion.formats import Piece
from tfrecords.errors import DataError
from tfrecords.file_kind import check_name, check_text

PIECE_BYTES = 16 << 20
LONGEST_LINE = 1 << 20
_HEAD_BYTES = 16


def open_local(path: str) -> BinaryIO:
    """Opens a file of the operating system.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        return open(path, "rb")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error


def text_pieces(
    path: str,
    start: int,
    piece_bytes: int,
    kind: str,
    opened: Callable[[str], BinaryIO] = open_local,
) -> Iterator[Piece]:
    """Yields whole lines, with a line feed behind the last one.

    Args:
        path: The file; if it ends in `.gz` it is decompressed.
        start: Byte of the decompressed text at which to begin.
        piece_bytes: About how much to read at once.
        kind: What the text should be, for a message: "Criteo text".
        opened: Opens the file, whose bytes are the ones that are stored.

    Raises:
        DataError: If the file cannot be read to its end, is empty or no text, is compressed in
            another way than its name says, or holds an endless line.
    """
    rest = b""
    at = read = start
    done = 0
    with opened(path) as raw:
        check_name(path, raw.read(_HEAD_BYTES))
        raw.seek(0)
        stream: BinaryIO | gzip.GzipFile = raw
        if path.endswith(".gz"):
            stream = gzip.GzipFile(fileobj=raw)
        _skip(stream, start, path)
        while block := _read(stream, piece_bytes, path, read):
            if not read:
                check_text(path, block)
            read += len(block)
            done = raw.tell()
            end = block.rfind(b"\n") + 1
            if end:
                text = rest + block[:end]
                rest = block[end:]
                yield Piece(path, at, at + len(text), None, text, done)
                at += len(text)
            else:
                rest += block
            if len(rest) > max(LONGEST_LINE, piece_bytes):
                raise DataError(
                    f"{path} holds a line of more than {len(rest)} bytes, so it is no {kind}."
                )
        if rest:
            yield Piece(path, at, at + len(rest), None, rest + b"\n", done)
    if not read:
        raise DataError(f"The input file {path!r} is empty.")


def _skip(stream: BinaryIO | gzip.GzipFile, start: int, path: str) -> None:
    if not isinstance(stream, gzip.GzipFile):
        stream.seek(start)
        return
    done = 0
    while done < start:
        block = _read(stream, min(PIECE_BYTES, start - done), path, done)
        if not block:
            return
        done += len(block)


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
