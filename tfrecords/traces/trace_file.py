"""Files of traces, in the two formats of the reference: one line of numbers, or raw uint64."""

from __future__ import annotations

import numpy as np

from tfrecords import files
from tfrecords.errors import DataError
from tfrecords.traces.stack_distance import as_trace
from tfrecords.traces.whole_file import write_whole

TEXT, BINARY = "text", "binary"
TRACE_FORMATS = (TEXT, BINARY)
_LARGEST = 2**64 - 1


def read_trace(path: str, trace_format: str = TEXT) -> np.ndarray:
    """Reads a trace.

    Args:
        path: The file.
        trace_format: "text": one line of whole numbers with commas between; "binary": 64-bit
            unsigned little-endian numbers, nothing else.

    Returns:
        uint64 `[accesses]`, at least one.

    Raises:
        DataError: If the file cannot be read or holds something else; names file, line and value.
    """
    content = read_file(path)
    if trace_format == BINARY:
        if len(content) % 8:
            raise DataError(
                f"The trace {path} has {len(content)} bytes; a binary trace is a row of 64-bit "
                "numbers, so its size must be a multiple of 8."
            )
        ids: np.ndarray = np.frombuffer(content, "<u8").astype(np.uint64)
    else:
        lines = as_text(path, content).splitlines()
        while lines and not lines[-1].strip():
            lines.pop()
        if len(lines) > 1:
            raise DataError(
                f"The trace {path} has {len(lines)} lines; a text trace is one line of whole "
                "numbers with commas between."
            )
        ids = parse_ids(path, 1, lines[0] if lines else "")
    if not len(ids):
        raise DataError(f"The trace {path} is empty; it must hold at least one access.")
    return ids


def write_trace(path: str, ids: np.ndarray, trace_format: str = TEXT) -> None:
    """Writes a trace, whole or not at all.

    Args:
        path: The file.
        ids: Whole numbers of at least 0, `[accesses]`.
        trace_format: As for `read_trace`.

    Raises:
        DataError: If `ids` is no trace or the file cannot be written.
    """
    ids = as_trace(ids)
    if trace_format == BINARY:
        write_whole(path, ids.astype("<u8").tobytes())
    else:
        write_whole(path, (join(ids) + "\n").encode())


def join(ids: np.ndarray) -> str:
    """The numbers with comma and space between, as in all text files of the reference."""
    return ", ".join(map(str, ids.tolist()))


def parse_ids(path: str, line: int, text: str) -> np.ndarray:
    """The ids of a line of text, uint64 `[ids]`; none for an empty one.

    Args:
        path: The file, for messages.
        line: Number of the line from 1, for messages.
        text: The line.

    Raises:
        DataError: If an item is no whole number in [0, 2**64).
    """
    if not text.strip():
        return np.zeros(0, np.uint64)
    items = text.split(",")
    for number, item in enumerate(items):
        # int() would take "1_000" and "+1" as well.
        item = item.strip()
        if not (item.isascii() and item.isdigit() and int(item) <= _LARGEST):
            raise DataError(
                f"Item {number + 1} of line {line} of {path} is {item[:40]!r}; ids are whole "
                "numbers in [0, 2**64)."
            )
    return np.array([int(item) for item in items], np.uint64)


def read_file(path: str) -> bytes:
    """The content of a file.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        return files.read_bytes(path)
    except OSError as error:
        raise DataError(f"The file {path} cannot be read: {error.strerror or error}.") from error


def as_text(path: str, content: bytes) -> str:
    """The content of a text file.

    Raises:
        DataError: If it is no ASCII text.
    """
    try:
        return content.decode("ascii")
    except UnicodeDecodeError as error:
        raise DataError(
            f"The file {path} is no text of numbers: byte {error.start} is "
            f"{content[error.start]:#04x}. (Binary traces need --trace_format=binary.)"
        ) from error
