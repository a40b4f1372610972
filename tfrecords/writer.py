"""Writes a data set: record files of blocks and `dataset.json`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, BinaryIO

import google_crc32c
import numpy as np

from tfrecords import block, dataset_info
from tfrecords.dataset_info import DatasetInfo, FileInfo, SplitInfo, VocabularyInfo
from tfrecords.errors import DataError
from tfrecords.folder import WholeFolder
from tfrecords.record_format import FOOTER, HEADER, frame
from tfrecords.schema import Schema

ROWS_PER_RECORD = 8192
RECORDS_PER_FILE = 128


def file_name(split: str, number: int) -> str:
    """The name of a file of a split."""
    return f"{split}-{number:05d}.tfrecord"


class DatasetWriter:
    """Writes rows into a data set folder, which appears when all of them are written.

    ```python
    with DatasetWriter("clicks", schema) as writer:
        writer.write("train", {"dense": dense, "C1": ids}, label)
    ```

    Leaving the block with an exception removes what was written and leaves an earlier data set in
    `output_dir` as it was; so does a process that dies (see `WholeFolder`).

    Args:
        output_dir: The folder: missing, empty, or a data set, which is then replaced. Or a
            `WholeFolder`, where something else was worked on beside it before.
        schema: The columns.
        how_it_was_made: Kept in `dataset.json` for people to read; what `json.dumps` takes.
        rows_per_record: Rows in one record. More makes reading faster and shuffling coarser.
        records_per_file: Records in one file.
        vocabularies: What `dataset.json` says of vocabulary files, which are in the folder already.
        written: For a folder where an earlier process was stopped: what it handed to `on_file`, in
            that order. Writing goes on behind these rows.
        on_file: Called with the split and the description of each file when it is finished, and
            with the sum of the labels of the split so far.

    Raises:
        DataError: If the folder cannot be used.
    """

    def __init__(
        self,
        output_dir: str | WholeFolder,
        schema: Schema,
        how_it_was_made: Mapping[str, Any] | None = None,
        rows_per_record: int = ROWS_PER_RECORD,
        records_per_file: int = RECORDS_PER_FILE,
        vocabularies: Mapping[str, VocabularyInfo] | None = None,
        written: Sequence[tuple[str, FileInfo, float]] = (),
        on_file: Callable[[str, FileInfo, float], None] | None = None,
    ) -> None:
        if rows_per_record < 1:
            raise DataError(f"rows_per_record must be at least 1, not {rows_per_record}.")
        if records_per_file < 1:
            raise DataError(f"records_per_file must be at least 1, not {records_per_file}.")
        self.schema = schema
        self.how_it_was_made = dict(how_it_was_made or {})
        self._rows_per_record = rows_per_record
        self._records_per_file = records_per_file
        self._folder = (
            output_dir if isinstance(output_dir, WholeFolder) else WholeFolder(output_dir)
        )
        self._vocabularies = dict(vocabularies or {})
        self._on_file = on_file
        self._splits: dict[str, _SplitWriter] = {}
        for split, file, label_sum in written:
            self._split(split).resume(file, label_sum)

    def rows(self, split: str) -> int:
        """Number of rows of a split so far."""
        return self._splits[split].rows if split in self._splits else 0

    def _split(self, split: str) -> _SplitWriter:
        if not split.isidentifier():
            raise DataError(f"The split {split!r} must be a plain name such as 'train'.")
        if split not in self._splits:
            self._splits[split] = _SplitWriter(
                self._folder.work,
                split,
                self.schema,
                self._rows_per_record,
                self._records_per_file,
                self._on_file,
            )
        return self._splits[split]

    def write(self, split: str, features: Mapping[str, Any], label: np.ndarray) -> None:
        """Appends rows to a split.

        Args:
            split: "train", "evaluation" or another name that can be part of a file name.
            features: `{"dense": [rows, columns], NAME: [rows] or [rows, hotness], ...}`. A ragged
                column is a pair (values `[n]`, row lengths `[rows]`).
            label: `[rows]`, values in [0, 1].

        Raises:
            DataError: If a column is missing, unknown, or of another length or shape than the
                schema says, if an id lies outside its vocabulary, or a number is not finite; names
                column, row (counted from 0 over the whole split) and value. Also if the disk is
                full.
        """
        writer = self._split(split)
        columns = as_columns(self.schema, features, label)
        block.check(self.schema, columns, writer.rows)
        writer.append(columns)

    def end(self, split: str) -> None:
        """Writes what is left of a split, to which nothing can be added any more."""
        self._split(split).finish()

    def finish(self) -> DatasetInfo:
        """Writes what is left and puts the folder in its place. Called by the `with` block."""
        info = DatasetInfo(
            schema=self.schema,
            splits={name: writer.finish() for name, writer in self._splits.items()},
            how_it_was_made=self.how_it_was_made,
            vocabularies=self._vocabularies,
        )
        with open(os.path.join(self._folder.work, dataset_info.FILE_NAME), "wb") as file:
            file.write(info.to_bytes())
        self._folder.commit()
        return info

    def close(self) -> None:
        """Closes the files without finishing them."""
        for writer in self._splits.values():
            writer.close()

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            try:
                self.finish()
            except BaseException as failure:
                kind, error, trace = type(failure), failure, failure.__traceback__
                self._end(kind, error, trace)
                raise
        self._end(kind, error, trace)

    def _end(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        self._folder.__exit__(kind, error, trace)


class RecordFile:
    """A file of records while it is written.

    Args:
        file: Opened for writing.
        name: Its name in the data set.
        schema: The columns.
    """

    def __init__(self, file: BinaryIO, name: str, schema: Schema) -> None:
        self._file = file
        self._name = name
        self._schema = schema
        self._offsets: list[int] = []
        self._rows = self._size = self._crc = 0

    @property
    def records(self) -> int:
        """Number of records so far."""
        return len(self._offsets)

    def write(self, columns: dict[str, np.ndarray]) -> float:
        """Adds a record of checked columns; returns the sum of its labels."""
        data = block.encode(self._schema, columns)
        header, footer = frame(data)
        for part in (header, data, footer):
            self._file.write(part)
            self._crc = google_crc32c.extend(self._crc, part)
        self._offsets.append(self._size)
        self._size += HEADER + len(data) + FOOTER
        label = columns[self._schema.label]
        self._rows += len(label)
        return float(label.sum(dtype=np.float64))

    def close(self) -> FileInfo:
        """Closes the file, and describes it."""
        self._file.close()
        return FileInfo(
            self._name, self._rows, self._size, f"{self._crc:08x}", tuple(self._offsets)
        )

    def abandon(self) -> None:
        """Closes the file, which is about to be removed."""
        # The disk may be full.
        with contextlib.suppress(OSError):
            self._file.close()


class _SplitWriter:
    """Cuts the rows of one split into records and the records into files."""

    def __init__(
        self,
        folder: str,
        split: str,
        schema: Schema,
        rows_per_record: int,
        records_per_file: int,
        on_file: Callable[[str, FileInfo, float], None] | None,
    ) -> None:
        self._folder = folder
        self._split = split
        self._schema = schema
        self._rows_per_record = rows_per_record
        self._records_per_file = records_per_file
        self._on_file = on_file
        self._pending: list[dict[str, np.ndarray]] = []
        self._pending_rows = 0
        self._label_sum = 0.0
        self._files: list[FileInfo] = []
        self._file: RecordFile | None = None
        self.rows = 0

    def resume(self, file: FileInfo, label_sum: float) -> None:
        self._files.append(file)
        self._label_sum = label_sum
        self.rows += file.rows

    def append(self, columns: dict[str, np.ndarray]) -> None:
        rows = len(columns[self._schema.label])
        self._pending.append(columns)
        self._pending_rows += rows
        self.rows += rows
        if self._pending_rows >= self._rows_per_record:
            self._write_records(self._pending_rows // self._rows_per_record)

    def _write_records(self, records: int) -> None:
        joined = {
            name: np.concatenate([columns[name] for columns in self._pending])
            for name in self._pending[0]
        }
        total = len(joined[self._schema.label])
        for record in range(records):
            start = record * self._rows_per_record
            self._write_record(self._rows(joined, start, start + self._rows_per_record))
        rest = self._rows(joined, records * self._rows_per_record, total)
        self._pending_rows = len(rest[self._schema.label])
        self._pending = [rest] if self._pending_rows else []

    def _rows(self, joined: dict[str, np.ndarray], start: int, end: int) -> dict[str, np.ndarray]:
        cut = {name: array[start:end] for name, array in joined.items()}
        for column in self._schema.categorical:
            if column.hotness is None:
                lengths = joined[column.name + block.LENGTHS]
                first = int(lengths[:start].sum())
                last = first + int(lengths[start:end].sum())
                cut[column.name] = joined[column.name][first:last]
        return cut

    def _write_record(self, columns: dict[str, np.ndarray]) -> None:
        if self._file is None:
            name = file_name(self._split, len(self._files))
            file = open(os.path.join(self._folder, name), "wb")
            self._file = RecordFile(file, name, self._schema)
        self._label_sum += self._file.write(columns)
        if self._file.records == self._records_per_file:
            self._end_file(self._file)

    def _end_file(self, file: RecordFile) -> None:
        self._file = None
        self._files.append(file.close())
        if self._on_file is not None:
            self._on_file(self._split, self._files[-1], self._label_sum)

    def finish(self) -> SplitInfo:
        if self._pending_rows:
            self._write_record(
                {
                    name: np.concatenate([columns[name] for columns in self._pending])
                    for name in self._pending[0]
                }
            )
            self._pending = []
            self._pending_rows = 0
        if self._file is not None:
            self._end_file(self._file)
        return SplitInfo(self.rows, self._label_sum, self._rows_per_record, tuple(self._files))

    def close(self) -> None:
        if self._file is not None:
            self._file.abandon()
            self._file = None


def as_columns(
    schema: Schema, features: Mapping[str, Any], label: np.ndarray
) -> dict[str, np.ndarray]:
    """The arrays of `features` by the names they have in a record, with their shapes checked."""
    expected = {column.name for column in schema.categorical}
    if schema.dense:
        expected.add(block.DENSE)
    for name in sorted(expected - set(features)):
        raise DataError(f"The column {name!r} of the schema is missing from the rows to write.")
    for name in sorted(set(features) - expected):
        raise DataError(f"The rows to write have a column {name!r} that the schema does not know.")
    labels = np.asarray(label, dtype=np.float32)
    if labels.ndim != 1:
        raise DataError(
            f"The label must have one value per row (shape [rows]), not {labels.shape}."
        )
    rows = len(labels)
    columns = {schema.label: labels}
    if schema.dense:
        columns[block.DENSE] = np.asarray(features[block.DENSE], dtype=np.float32)
        _check_shape(block.DENSE, columns[block.DENSE], (rows, len(schema.dense)))
    for column in schema.categorical:
        if column.hotness is None:
            values, lengths = features[column.name]
            columns[column.name] = _as_ids(column.name, values)
            columns[column.name + block.LENGTHS] = _as_ids(column.name, lengths).astype(np.int32)
            lengths = columns[column.name + block.LENGTHS]
            _check_shape(f"{column.name} (row lengths)", lengths, (rows,))
            if lengths.min(initial=0) < 0:
                raise DataError(f"Column {column.name!r} has a negative row length.")
            _check_shape(column.name, columns[column.name], (int(lengths.sum()),))
            continue
        columns[column.name] = _as_ids(column.name, features[column.name])
        shape = (rows,) if column.hotness == 1 else (rows, column.hotness)
        _check_shape(column.name, columns[column.name], shape)
    return columns


def _as_ids(name: str, values: Any) -> np.ndarray:
    ids = np.asarray(values)
    if ids.size == 0:
        return ids.astype(np.int32)
    if not np.issubdtype(ids.dtype, np.integer):
        raise DataError(f"Column {name!r} must hold whole numbers, not {ids.dtype}.")
    return ids


def _check_shape(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise DataError(
            f"Column {name!r} has the shape {list(array.shape)}, where the schema and the number "
            f"of rows ask for {list(shape)}."
        )
