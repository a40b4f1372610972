"""Finds what is wrong with the files of a data set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

import google_crc32c

from tfrecords import block, files, json_values
from tfrecords.dataset_info import DatasetInfo, FileInfo
from tfrecords.errors import DataError
from tfrecords.record_format import read_records

_CHUNK = 1 << 24


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


def _file_problem(path: str, file: FileInfo, rows: list[int], info: DatasetInfo) -> str | None:
    again = "Convert the data again, or copy the file again."
    try:
        size = files.size(path)
    except OSError as error:
        return (
            f"The file {path} cannot be read: {(error.strerror or str(error)).rstrip('.')}. {again}"
        )
    record = 0
    with files.explained(path), files.open_file(path) as raw:
        stream = _Summed(raw)
        try:
            for offset, data in read_records(stream, size):
                if record == len(file.offsets) or offset != file.offsets[record]:
                    return (
                        f"Record {record} of {path} begins at byte {offset}, where dataset.json "
                        f"has none. {again}"
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
                f"dataset.json says {file.size}). {again}"
            )
    if record < len(file.offsets):
        return (
            f"The file {path} ends after record {record - 1}: it has {size} bytes and {record} "
            f"records, where dataset.json says {file.size} and {len(file.offsets)}. {again}"
        )
    if f"{stream.crc:08x}" != file.crc32c:
        return f"The checksum of {path} is not the one in dataset.json. {again}"
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
