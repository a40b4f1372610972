"""Reads text files in pieces of whole lines, plain or compressed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import IO, Any

from tfrecords import input_files
from tfrecords.conversion.formats import Piece
from tfrecords.errors import DataError
from tfrecords.file_kind import check_name, check_text

PIECE_BYTES = 16 << 20
LONGEST_LINE = 1 << 20
_HEAD_BYTES = 16


def text_pieces(
    path: str,
    start: int,
    piece_bytes: int,
    kind: str,
    opened: Callable[[str], IO[bytes]] = input_files.open_input,
) -> Iterator[Piece]:
    """Yields whole lines, with a line feed behind the last one.

    Args:
        path: The file; it is decompressed as the end of its name says.
        start: Byte of the decompressed text at which to begin.
        piece_bytes: About how much to read at once.
        kind: What the text should be, for a message: "CSV table".
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
        stream = input_files.decompressed(path, raw)
        _skip(stream, start, path)
        while block := input_files.read(stream, piece_bytes, path, read):
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


def _skip(stream: Any, start: int, path: str) -> None:
    if not input_files.compression(path):
        stream.seek(start)
        return
    done = 0
    while done < start:
        block = input_files.read(stream, min(PIECE_BYTES, start - done), path, done)
        if not block:
            return
        done += len(block)
