"""Makes one file of records of the rows that were sent to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np

from tfrecords import block
from tfrecords.beam.file_cuts import RowOrder
from tfrecords.beam.output_folder import OutputFolder
from tfrecords.beam.packing import PackedRows, concatenate, cut, take, unpack
from tfrecords.dataset_info import FileInfo
from tfrecords.odd_labels import LabelRange
from tfrecords.record_format import FOOTER, HEADER, frame
from tfrecords.schema import Schema

# A worker holds a file's rows two or three times while it puts them in order.
_FILE_BYTES = 128 << 20


@dataclasses.dataclass(frozen=True)
class WrittenFile:
    """A file of records in the work folder.

    Attributes:
        split: Its split.
        number: Its number within the split.
        info: Its description, with the name that it will have.
        path: Where it is now.
        label_sums: Sum of the labels of each record.
        labels: Whether its labels differ.
    """

    split: str
    number: int
    info: FileInfo
    path: str
    label_sums: tuple[float, ...]
    labels: LabelRange


def records_per_file(schema: Schema, rows_per_record: int, most: int) -> int:
    """Records in a file, so that it is of about 128 MiB (ragged columns taken for one id a row)."""
    words = 1 + len(schema.dense)
    for column in schema.categorical:
        words += (column.hotness or 2) * column.dtype.itemsize // 4
    return max(1, min(most, _FILE_BYTES // (4 * words * rows_per_record)))


def write_file(
    folder: OutputFolder,
    schema: Schema,
    split: str,
    number: int,
    parts: Iterable[PackedRows],
    order: RowOrder,
    rows_per_record: int,
    first_row: int,
) -> WrittenFile:
    """Writes the rows of a file in order.

    Args:
        folder: Where.
        schema: The columns.
        split: The split.
        number: The file's number within it.
        parts: The rows, in any order.
        order: Their order.
        rows_per_record: Rows in one record.
        first_row: Rows of the split in the files before, for messages.

    Raises:
        DataError: If a value is not allowed; names column, row and value.
    """
    rows = concatenate(list(parts))
    rows = take(schema, rows, order.permutation(rows.rows))
    offsets: list[int] = []
    label_sums: list[float] = []
    labels = LabelRange()

    def content() -> Iterator[bytes]:
        size = 0
        starts = np.arange(0, len(rows), rows_per_record)
        for start, record in zip(starts.tolist(), cut(schema, rows, starts), strict=True):
            columns = unpack(schema, record)
            block.check(schema, columns, first_row + start)
            data = block.encode(schema, columns)
            header, footer = frame(data)
            yield from (header, data, footer)
            offsets.append(size)
            label = columns[schema.label]
            label_sums.append(float(label.sum(dtype=np.float64)))
            labels.add(label)
            size += HEADER + len(data) + FOOTER

    name = f"{split}-{number:05d}.tfrecord"
    path, size, crc = folder.write(name, content())
    info = FileInfo(name, len(rows), size, crc, tuple(offsets))
    return WrittenFile(split, number, info, path, tuple(label_sums), labels)
