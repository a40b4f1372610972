"""Parquet files that are read without conversion: which there are, and parts of them."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from tfrecords import files
from tfrecords.conversion import parquet_table
from tfrecords.conversion.table_description import TableDescription
from tfrecords.errors import DataError

ENDING = ".parquet"
# A footer is rarely longer, so that one request to a store is enough.
_TAIL = 1 << 18
# Row groups of fewer rows are read together.
_LEAST_ROWS = 8192


class Block(NamedTuple):
    """Whole row groups of a file, which are read at once.

    Attributes:
        first_group: The first of them.
        stop_group: The one behind the last.
        first_row: Number of their first row in the file.
        rows: Number of rows.
    """

    first_group: int
    stop_group: int
    first_row: int
    rows: int


@dataclasses.dataclass(frozen=True, eq=False)
class TableFile:
    """What is known of a file.

    Attributes:
        path: Where it is.
        name: Its name within the folder of all files.
        rows: Number of rows.
        blocks: What is read at once.
        checksum: Of its size and footer.
        label_bounds: The smallest and the largest value of the label's column in each row group
            whose statistics say so.
        metadata: Its footer.
    """

    path: str
    name: str
    rows: int
    blocks: tuple[Block, ...]
    checksum: str
    label_bounds: tuple[Any, ...]
    metadata: pq.FileMetaData

    def read(self, part: Block, columns: list[str], null_values: tuple[str, ...]) -> pa.Table:
        """Reads columns of a block, with nulls where text means that a value is missing.

        Raises:
            DataError: If they cannot be read.
        """
        groups = list(range(part.first_group, part.stop_group))
        try:
            if files.is_remote(self.path):
                with files.explained(self.path), files.open_file(self.path) as source:
                    table = self._groups(source, groups, columns)
            else:
                table = self._groups(files.local(self.path), groups, columns)
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, DataError):
                raise
            last = part.first_row + part.rows - 1
            raise DataError(
                f"Rows {part.first_row} to {last} of {self.path} cannot be read: {error}"
            ) from error
        return parquet_table.with_nulls(table, null_values)

    def check_unchanged(self) -> None:
        """Checks that the file is what it was when it was opened.

        Raises:
            DataError: If it is not.
        """
        if _metadata_and_checksum(self.path)[1] != self.checksum:
            raise DataError(f"The file {self.path} has changed since it was opened.")

    def _groups(self, source: Any, groups: list[int], columns: list[str]) -> pa.Table:
        # The footer is known, and threads are those who read several blocks at once.
        with pq.ParquetFile(source, metadata=self.metadata, pre_buffer=True) as file:
            return file.read_row_groups(groups, columns, use_threads=False)


def split_files(data_dir: str) -> dict[str, list[str]]:
    """Finds the names of the files of each split.

    Raises:
        DataError: If there are none.
    """
    if not files.isdir(data_dir):
        raise DataError(f"There is no folder {data_dir!r} of Parquet files.")
    splits = {}
    for split in files.listdir(data_dir):
        folder = files.join(data_dir, split)
        if split.startswith((".", "_")) or not files.isdir(folder):
            continue
        names = [name for name in files.listdir(folder) if name.endswith(ENDING)]
        if names:
            splits[split] = names
    if not splits:
        raise DataError(
            f"The folder {data_dir!r} holds no Parquet files: they lie in a folder per split, as "
            f"{files.join(data_dir, 'train', 'part-0.parquet')}."
        )
    return splits


def open_file(path: str, name: str, description: TableDescription) -> TableFile:
    """Reads what a file's footer says.

    Args:
        path: The file.
        name: How it is called in fingerprints.
        description: What its columns are to be.

    Raises:
        DataError: If the file is damaged, or has not the columns described.
    """
    metadata, checksum = _metadata_and_checksum(path)
    parquet_table.check(path, metadata.schema.to_arrow_schema(), description)
    bounds: list[Any] = []
    label = [
        i for i in range(metadata.num_columns)
        if metadata.schema.column(i).path == description.label.column
    ]  # fmt: skip
    for group in range(metadata.num_row_groups):
        for column in label:
            statistics = metadata.row_group(group).column(column).statistics
            if statistics and statistics.has_min_max:
                bounds += [statistics.min, statistics.max]
    return TableFile(
        path=path,
        name=name,
        rows=metadata.num_rows,
        blocks=_blocks([metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)]),
        checksum=checksum,
        label_bounds=tuple(bounds),
        metadata=metadata,
    )


def _blocks(group_rows: list[int]) -> tuple[Block, ...]:
    """Whole row groups, small ones together."""
    found = []
    first_group = first_row = rows = 0
    for group, count in enumerate(group_rows):
        rows += count
        if rows >= _LEAST_ROWS or (group == len(group_rows) - 1 and rows):
            found.append(Block(first_group, group + 1, first_row, rows))
            first_group, first_row, rows = group + 1, first_row + rows, 0
    return tuple(found)


def _metadata_and_checksum(path: str) -> tuple[pq.FileMetaData, str]:
    """What a file's footer says, and a checksum of its size and footer."""
    try:
        size = files.size(path)
        with files.explained(path), files.open_file(path) as file:
            tail = _tail(file, size, _TAIL)
            length = int.from_bytes(tail[-8:-4], "little") + 8
            if length > len(tail):
                tail = _tail(file, size, length)
        metadata = pq.read_metadata(pa.BufferReader(tail))
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is no Parquet file, or is damaged: {error}") from error
    # Footers end with what the file's writer knows of each column: offsets, sizes and ranges.
    footer = tail[-(int.from_bytes(tail[-8:-4], "little") + 8) :]
    # Not its path, which is written in many ways, and which a copy has not.
    digest = hashlib.sha256(f"{size}:".encode() + footer).hexdigest()
    return metadata, digest[:32]


def _tail(file: Any, size: int, length: int) -> bytes:
    file.seek(max(0, size - length))
    return bytes(file.read(min(size, length)))
