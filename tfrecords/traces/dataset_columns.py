"""Columns of a data set folder as arrays, read with NumPy alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import BinaryIO, cast

import numpy as np

from tfrecords import block, files
from tfrecords.dataset_info import DatasetInfo, SplitInfo
from tfrecords.errors import DataError
from tfrecords.progress import Progress
from tfrecords.record_format import read_records
from tfrecords.schema import CategoricalColumn


def split_of(data_dir: str, info: DatasetInfo, split: str) -> SplitInfo:
    """A split that has rows.

    Raises:
        DataError: If there is none of that name or it is empty.
    """
    if split not in info.splits:
        raise DataError(
            f"The data set {data_dir} has no split {split!r}; it has "
            f"{', '.join(sorted(info.splits)) or 'none'}."
        )
    if not info.splits[split].rows:
        raise DataError(f"The split {split!r} of the data set {data_dir} has no rows.")
    return info.splits[split]


def read_blocks(
    data_dir: str, info: DatasetInfo, split: str, progress: Progress, what: str
) -> Iterator[dict[str, np.ndarray]]:
    """Yields the records of a split in order, as `block.decode` returns them.

    Args:
        data_dir: The folder.
        info: Its description.
        split: Name of the split.
        progress: Told how far it is.
        what: What is done with the rows, for example "Profiling".

    Raises:
        DataError: If a record is broken; names file and record.
    """
    chosen = info.splits[split]
    progress.begin(what, chosen.rows)
    rows = 0
    for file in chosen.files:
        path = files.join(data_dir, file.path)
        record = 0
        try:
            with files.open_file(path) as stream:
                for _, data in read_records(cast(BinaryIO, stream)):
                    columns = block.decode(info.schema, data)
                    yield columns
                    rows += len(columns[info.schema.label])
                    progress.update(rows, rows)
                    record += 1
        except OSError as error:
            raise DataError(
                f"The file {path} cannot be read: {error.strerror or error}."
            ) from error
        except DataError:
            raise
        except ValueError as error:
            raise DataError(
                f"Record {record} of {path} is broken: {error}. Convert the data again, or copy "
                "the file again."
            ) from error
    if rows != chosen.rows:
        raise DataError(
            f"The split {split!r} of {data_dir} has {rows} rows, where dataset.json says "
            f"{chosen.rows}. Convert the data again."
        )
    progress.end(rows)


def read_ids(
    data_dir: str,
    info: DatasetInfo,
    split: str,
    names: Sequence[str],
    most: int,
    progress: Progress,
) -> dict[str, np.ndarray]:
    """The ids of columns, in the order of the rows, and within a row in its order.

    Args:
        data_dir: The folder.
        info: Its description.
        split: Name of the split.
        names: The columns.
        most: How many ids to keep of each column; 0: all.
        progress: Told how far it is.

    Returns:
        `{name: [ids]}`, int32 or int64.

    Raises:
        DataError: If the split or a column is not there, or a record is broken.
    """
    split_of(data_dir, info, split)
    for name in names:
        column_of(data_dir, info, name)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    left = dict.fromkeys(names, most or np.iinfo(np.int64).max)
    for columns in read_blocks(data_dir, info, split, progress, f"Reading {', '.join(names)}"):
        for name in names:
            if left[name]:
                # A copy: what `decode` returns keeps the whole record in memory.
                parts[name].append(columns[name].reshape(-1)[: left[name]].copy())
                left[name] -= len(parts[name][-1])
    return {name: np.concatenate(parts[name]) for name in names}


def column_of(data_dir: str, info: DatasetInfo, name: str) -> CategoricalColumn:
    """The categorical column of that name.

    Raises:
        DataError: If there is none.
    """
    for column in info.schema.categorical:
        if column.name == name:
            return column
    raise DataError(
        f"The data set {data_dir} has no categorical column {name!r}; it has "
        f"{', '.join(info.schema.categorical_names) or 'none'}."
    )
