"""The TFRecord framing: length, masked checksum of the length, data, masked checksum of the data.

Written and read here, not through TensorFlow's writer, so that the writer knows the byte at which
each record begins, sees a full disk as the `OSError` it is, and so that `inspect` can name the
record that is broken. Any TFRecord reader reads these files.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Protocol

import google_crc32c

HEADER = 12
FOOTER = 4
LARGEST = 2**31 - 1  # bytes of a protocol buffer


def masked_crc(data: bytes) -> int:
    """The checksum that TFRecord files store: CRC-32C, rotated right by 15, plus a constant."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def header_of(length: int) -> bytes:
    """The 12 bytes before `length` bytes of data."""
    packed = struct.pack("<Q", length)
    return packed + struct.pack("<I", masked_crc(packed))


def frame(data: bytes) -> tuple[bytes, bytes]:
    """What stands before and after `data` in the file: 12 and 4 bytes."""
    return header_of(len(data)), struct.pack("<I", masked_crc(data))


class Readable(Protocol):
    """What can be read in sequence."""

    def read(self, size: int, /) -> bytes:
        """The next bytes, fewer than `size` only at the end."""
        ...


def read_records(file: Readable, size: int | None = None) -> Iterator[tuple[int, bytes]]:
    """Yields every record with the byte at which it begins.

    Args:
        file: A binary file, read from its beginning.
        size: Its size in bytes; None where that is not known, as of a compressed one.

    Raises:
        ValueError: If the file ends within a record, a checksum does not fit, or a length is larger
            than the file or any record; the message is a clause without the file's name ("the
            checksum of its data is wrong").
    """
    following = 0
    while True:
        offset = following
        header = file.read(HEADER)
        if not header:
            return
        if len(header) < HEADER:
            raise ValueError("the file ends within its header")
        length, length_crc = struct.unpack("<QI", header)
        if masked_crc(header[:8]) != length_crc:
            raise ValueError(
                "the checksum of its length is wrong, so bytes of the file have changed"
            )
        # Before so much memory is asked for.
        if size is not None and length > size:
            raise ValueError(f"the file ends within it, which says that it has {length} bytes")
        if length > LARGEST:
            raise ValueError(f"it says that it has {length} bytes, more than any record can have")
        data = file.read(length)
        footer = file.read(FOOTER)
        following += HEADER + length + FOOTER
        if len(data) < length or len(footer) < FOOTER:
            raise ValueError("the file ends within it")
        if masked_crc(data) != struct.unpack("<I", footer)[0]:
            raise ValueError("the checksum of its data is wrong, so bytes of the file have changed")
        yield offset, data
