"""Finds what is wrong with the files of a data set."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from typing import IO

import google_crc32c

from tfrecords import block, files, json_values
from tfrecords.dataset_info import DatasetInfo, FileInfo, SplitInfo
from tfrecords.errors import DataError
from tfrecords.record_format import FOOTER, HEADER, header_of, read_records

_CHUNK = 1 << 24
_AGAIN = "Convert the data again, or copy the file again."


def problems(data_dir: str, info: DatasetInfo) -> Iterator[str]:
    """Yields a sentence for each file that is not what `dataset.json` says, the first fault of it.

    Args:
        data_dir: The folder.
        info: Its description.
    """
    if not any(split.rows for split in info.splits.values()):
        yield f"The data set {data_dir} has no row in any split. Convert the data again."
    for split in info.splits.values():
        expected = iter(split.record_rows)
        for file in split.files:
            rows = [int(next(expected)) for _ in file.offsets]
            try:
                json_values.no_link(data_dir, file.path)
                problem = _file_problem(files.join(data_dir, file.path), file, rows, info)
            except DataError as error:
                problem = str(error)
            if problem is not None:
                yield problem
    for vocabulary in info.vocabularies.values():
        path = files.join(data_dir, vocabulary.path)
        try:
            json_values.no_link(data_dir, vocabulary.path)
        except DataError as error:
            yield str(error)
            continue
        (size,) = files.sizes([path])
        if size is None:
            yield f"The vocabulary file {path} is missing. Convert or copy the data again."
        elif size != vocabulary.size or file_crc(path) != vocabulary.crc32c:
            yield (
                f"The checksum or size of the vocabulary file {path} is not the one in "
                "dataset.json. Convert or copy the data again."
            )


def first_problem(data_dir: str, info: DatasetInfo) -> str | None:
    """The first of `problems`, or None if all is well."""
    return next(problems(data_dir, info), None)


def check_lengths(data_dir: str, split: SplitInfo) -> None:
    """Refuses local files whose records say another length than `dataset.json` leaves them.

    TensorFlow asks for as much memory as a record says, and ends the process where there is not so
    much. A length whose checksum is wrong, or a file that is missing or too short, is left to
    TensorFlow, which says so.

    Args:
        data_dir: The folder.
        split: The files and their records.

    Raises:
        DataError: If there is such a record.
    """
    if files.is_remote(data_dir):
        return  # Whose records are read by the places in dataset.json.
    for file in split.files:
        path = files.join(data_dir, file.path)
        ends = [*file.offsets[1:], file.size]
        with contextlib.suppress(OSError), files.open_file(path) as stream:
            for record, (begin, end) in enumerate(zip(file.offsets, ends, strict=True)):
                found = os.pread(stream.fileno(), HEADER, begin)
                wanted = end - begin - HEADER - FOOTER
                if len(found) < HEADER or found == header_of(wanted):
                    continue
                (length,) = struct.unpack("<Q", found[:8])
                if found == header_of(length):
                    raise DataError(
                        f"Record {record} of {path} is broken: its length is {length} bytes, where "
                        f"dataset.json leaves it {wanted}. {_AGAIN}"
                    )


def _file_problem(path: str, file: FileInfo, rows: list[int], info: DatasetInfo) -> str | None:
    try:
        size = files.size(path)
    except OSError as error:
        reason = (error.strerror or str(error)).rstrip(".")
        return f"The file {path} cannot be read: {reason}. {_AGAIN}"
    record = 0
    with files.explained(path), files.open_file(path) as raw:
        stream = _Summed(raw)
        try:
            for offset, data in read_records(stream, size):
                if record == len(file.offsets) or offset != file.offsets[record]:
                    return (
                        f"Record {record} of {path} begins at byte {offset}, where dataset.json "
                        f"has none. {_AGAIN}"
                    )
                columns = block.decode(info.schema, data)
                found = len(columns[info.schema.label])
                if found != rows[record]:
                    raise ValueError(f"it has {found} rows, where dataset.json says {rows[record]}")
                block.check(info.schema, columns)
                record += 1
        except DataError as error:
            return f"Record {record} of {path} holds a value that is not allowed: {error}"
        except ValueError as error:
            return (
                f"Record {record} of {path} is broken: {error} (the file has {size} bytes, "
                f"dataset.json says {file.size}). {_AGAIN}"
            )
    if record < len(file.offsets):
        return (
            f"The file {path} ends after record {record - 1}: it has {size} bytes and {record} "
            f"records, where dataset.json says {file.size} and {len(file.offsets)}. {_AGAIN}"
        )
    if f"{stream.crc:08x}" != file.crc32c:
        return f"The checksum of {path} is not the one in dataset.json. {_AGAIN}"
    return None


class _Summed:
    """A file that is read once, for its records and for the checksum of all of it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.crc = 0

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self.crc = google_crc32c.extend(self.crc, data)
        return data


def file_crc(path: str) -> str:
    """CRC-32C of a whole file, as eight hex digits."""
    crc = 0
    with files.explained(path), files.open_file(path) as stream:
        while chunk := stream.read(_CHUNK):
            crc = google_crc32c.extend(crc, chunk)
    return f"{crc:08x}"
