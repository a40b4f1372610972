"""Parquet files that are read without conversion: which there are, and what their footers say."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from tfrecords import files
from tfrecords.conversion.table_description import TableDescription
from tfrecords.errors import DataError

ENDING = ".parquet"
# A footer is rarely longer, so that one request to a store is enough.
_TAIL = 1 << 18
# Row groups of fewer rows are read together.
_LEAST_ROWS = 8192
# What tensorflow-io makes of Parquet's types.
TYPES = {
    "BOOLEAN": tf.bool,
    "INT32": tf.int32,
    "INT64": tf.int64,
    "FLOAT": tf.float32,
    "DOUBLE": tf.float64,
    "BYTE_ARRAY": tf.string,
}


@dataclasses.dataclass(frozen=True)
class ParquetFile:
    """What is known of a file.

    Attributes:
        path: Where it is.
        name: Its name within the folder of all files.
        rows: Number of rows.
        group_rows: Number of rows of each row group.
        types: Parquet's type of each column that is used.
        checksum: Of its size and footer.
        label_bounds: The smallest and the largest value of the label's column in each row group
            whose statistics say so.
    """

    path: str
    name: str
    rows: int
    group_rows: tuple[int, ...]
    types: tuple[str, ...]
    checksum: str
    label_bounds: tuple[float, ...]


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


def open_file(path: str, name: str, description: TableDescription) -> ParquetFile:
    """Reads what a file's footer says.

    Args:
        path: The file.
        name: How it is called in fingerprints.
        description: What its columns are to be.

    Raises:
        DataError: If the file is damaged, has not the columns described, or one of them cannot be
            read without conversion.
    """
    metadata, checksum = metadata_and_checksum(path)
    found = {metadata.schema.column(i).path: i for i in range(metadata.num_columns)}
    types = []
    label_bounds: list[float] = []
    for wanted in description.used:
        if wanted not in found:
            raise DataError(_no_such_column(path, wanted, found))
        column = metadata.schema.column(found[wanted])
        types.append(column.physical_type)
        _check_type(path, wanted, column, description)
        for group in range(metadata.num_row_groups):
            statistics = metadata.row_group(group).column(found[wanted]).statistics
            if statistics is not None and statistics.null_count:
                raise DataError(_null_sentence(path, wanted))
            if wanted == description.label.column and statistics and statistics.has_min_max:
                label_bounds += [float(statistics.min), float(statistics.max)]
            # tensorflow-io ends the process at a missing value, so there must be none.
            if column.max_definition_level and not (statistics and statistics.has_null_count):
                raise DataError(
                    f"The file {path} does not say whether values of the column {wanted!r} are "
                    "missing (it has no statistics); write it with statistics, or with the "
                    "column declared as not nullable, or make a data set with `python -m "
                    "tfrecords.convert`."
                )
    groups = range(metadata.num_row_groups)
    return ParquetFile(
        path=path,
        name=name,
        rows=metadata.num_rows,
        group_rows=tuple(metadata.row_group(group).num_rows for group in groups),
        types=tuple(types),
        checksum=checksum,
        label_bounds=tuple(label_bounds),
    )


def metadata_and_checksum(path: str) -> tuple[pq.FileMetaData, str]:
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


def blocks(group_rows: tuple[int, ...]) -> list[tuple[int, int]]:
    """Ranges of rows that are read at once: whole row groups, small ones together."""
    ranges, start, stop = [], 0, 0
    for rows in group_rows:
        stop += rows
        if stop - start >= _LEAST_ROWS:
            ranges.append((start, stop))
            start = stop
    if stop > start:
        ranges.append((start, stop))
    return ranges


def _no_such_column(path: str, wanted: str, found: dict[str, int]) -> str:
    for name in found:
        if name.startswith(wanted + "."):
            return (
                f"The column {wanted!r} of {path} holds lists or structures, which tensorflow-io's "
                "reader of Parquet does not know; `python -m tfrecords.convert` makes a data set "
                "of it."
            )
    return f"{path} has no column {wanted!r}; it has {', '.join(found)}."


def _check_type(path: str, name: str, column: Any, description: TableDescription) -> None:
    kind = column.physical_type
    logical = str(getattr(column.logical_type, "type", "NONE"))
    if column.converted_type in ("UINT_32", "UINT_64"):
        # tensorflow-io would read its larger half as negative numbers.
        raise DataError(
            f"The column {name!r} of {path} holds unsigned numbers ({column.converted_type}), "
            "which tensorflow-io's reader of Parquet does not know; write it as signed numbers of "
            "64 bits, or make a data set with `python -m tfrecords.convert`."
        )
    text = kind == "BYTE_ARRAY"
    uses = [c for c in description.categorical if c.column == name]
    hashed = any(c.hash_buckets for c in uses)
    whole = any(c.vocabulary_size for c in uses)
    numbers = {description.label.column, *(dense.column for dense in description.dense)}
    allowed = kind in TYPES and logical in ("NONE", "INT", "STRING")
    # Text of whole numbers is hashed by the conversion as the number that it stands for.
    if text and (name in numbers or any(c.kind == "integer" for c in uses)):
        allowed = False
    if (whole or hashed) and kind in ("FLOAT", "DOUBLE", "BOOLEAN"):
        allowed = False
    if column.max_repetition_level or not allowed:
        raise DataError(
            f"The column {name!r} of {path} is of Parquet's type {kind}"
            f"{'' if logical == 'NONE' else f' ({logical})'}, which cannot be read as it is "
            "described without conversion; `python -m tfrecords.convert` makes a data set of it."
        )


def _null_sentence(path: str, column: str) -> str:
    return (
        f"The column {column!r} of {path} holds missing values, which tensorflow-io's reader of "
        "Parquet does not know; fill them, or make a data set with `python -m tfrecords.convert`."
    )
