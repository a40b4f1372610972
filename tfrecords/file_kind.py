"""What a file is by its first bytes, where its name says something else."""

from __future__ import annotations

from tfrecords.errors import DataError
from tfrecords.input_files import COMPRESSIONS, compression, open_input

GZIP = b"\x1f\x8b"
# The first bytes, by the ends of names.
_FIRST = {".gz": GZIP, ".bz2": b"BZh", ".xz": b"\xfd7zXZ\x00", ".zst": b"\x28\xb5\x2f\xfd"}
# The first bytes, what such a file is, and what makes text of it.
_OTHERS = (
    *((b"BZh%d1AY&SY" % level, "compressed with bzip2", "bunzip2") for level in range(1, 10)),
    (b"\xfd7zXZ\x00", "compressed with xz", "unxz"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unzstd"),
    (b"\x04\x22\x4d\x18", "compressed with lz4", "unlz4"),
    (b"\x1f\x9d", "compressed with compress", "uncompress"),
    (b"PK\x03\x04", "a zip archive", "unzip"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "7z x"),
    (b"Rar!\x1a\x07", "a rar archive", "unrar x"),
    (b"\xff\xfe", "text in UTF-16", "iconv -f UTF-16 -t UTF-8"),
    (b"\xfe\xff", "text in UTF-16", "iconv -f UTF-16 -t UTF-8"),
)


def check_name(path: str, head: bytes) -> None:
    """Checks that a file is compressed as its name says.

    Args:
        path: The file.
        head: Its first bytes, as they are on disk.

    Raises:
        DataError: If it is not, or if it is compressed in another way.
    """
    end = compression(path)
    if end and head.startswith(_FIRST[end]):
        return
    _check_others(path, head)
    if head.startswith(GZIP):
        raise DataError(
            f"{path} is compressed with gzip, but its name does not end in .gz. Rename it."
        )
    if end:
        raise DataError(
            f"{path} is no whole {COMPRESSIONS[end][0]} file, although its name ends in {end}. "
            "Rename it if it is plain, or fetch it again."
        )


def check_file(path: str) -> None:
    """`check_name` of a file's own first bytes.

    Raises:
        DataError: As `check_name`; or if the file cannot be read.
    """
    with open_input(path) as file:
        head = file.read(16)
    check_name(path, head)


def check_text(path: str, head: bytes) -> None:
    """Checks that bytes look like lines of text.

    Args:
        path: The file that they are of.
        head: The first ones, behind gzip's decompression.

    Raises:
        DataError: If they are of a Parquet file, or compressed (once more), mostly NUL bytes, or
            their lines end in carriage returns alone.
    """
    _check_others(path, head)
    if head.startswith(GZIP):
        raise DataError(f"{path} is compressed with gzip twice. Decompress it with gunzip.")
    line = head.partition(b"\n")[0]
    # A stray one is a fault of its row; every other byte is one in UTF-16.
    if line.count(0) * 4 > len(line) and not head.startswith(b"PAR1"):
        raise DataError(
            f"{path} is no UTF-8 text: its first line holds many NUL bytes, as texts in UTF-16 or "
            "UTF-32 and files with holes have."
        )
    if head.startswith(b"PAR1") and b"\0" in head:
        raise DataError(
            f"{path} is a Parquet file, and no text; a description with format = 'parquet' reads "
            "it."
        )
    # The last one may be that of a line whose line feed comes next.
    if b"\r" in head[:-1] and b"\n" not in head:
        raise DataError(
            f"The lines of {path} end in carriage returns alone, as those of old Macintosh "
            f"programs do. Line feeds are needed: tr '\\r' '\\n' < {path} > OTHER."
        )


def _check_others(path: str, head: bytes) -> None:
    for first, what, command in _OTHERS:
        if head.startswith(first):
            raise DataError(
                f"{path} is {what}; only plain UTF-8 text is read, and text that is compressed as "
                f"its name says ({', '.join(COMPRESSIONS)}). Use {command} first, or rename it."
            )
