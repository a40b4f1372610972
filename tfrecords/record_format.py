"""The TFRecord framing: length, masked checksum of the length, data, masked checksum of the data.

Written and read here, not through TensorFlow's writer, so that the writer knows the byte at which
each record begins, sees a full disk as the `OSError` it is, and so that `inspect` can name the
record that is broken. Any TFRecord reader reads these files.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import IO

import google_crc32c

HEADER = 12
FOOTER = 4


def masked_crc(data: bytes) -> int:
    """The checksum that TFRecord files store: CRC-32C, rotated right by 15, plus a constant."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def frame(data: bytes) -> tuple[bytes, bytes]:
    """What stands before and after `data` in the file: 12 and 4 bytes."""
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc(length)), struct.pack("<I", masked_crc(data))


def read_records(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yields every record with the byte at which it begins.

    Args:
        file: An open binary file, from whose position on records are read.

    Raises:
        ValueError: If the file ends within a record or a checksum does not fit; the message is a
            clause without the file's name ("the checksum of its data is wrong").
    """
    while True:
        offset = file.tell()
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
        data = file.read(length)
        footer = file.read(FOOTER)
        if len(data) < length or len(footer) < FOOTER:
            raise ValueError("the file ends within it")
        if masked_crc(data) != struct.unpack("<I", footer)[0]:
            raise ValueError("the checksum of its data is wrong, so bytes of the file have changed")
        yield offset, data
