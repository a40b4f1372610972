"""Trains on Parquet files as they are: read inside TensorFlow's graph, by tensorflow-io.

For tables whose values need no vocabulary built by counting: ids that are ids already, or text that
is hashed. `python -m tfrecords.convert` makes a data set of any table.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import numpy as np
import tensorflow as tf

from tfrecords import files
from tfrecords.conversion.table_description import TableDescription
from tfrecords.epoch import SHUFFLE_WINDOW_ROWS, Shard, epoch_order
from tfrecords.errors import DataError, first_line
from tfrecords.odd_labels import LabelRange
from tfrecords.order import Features, ordered_batches
from tfrecords.parquet_files import (
    ENDING,
    TYPES,
    ParquetFile,
    blocks,
    metadata_and_checksum,
    open_file,
    split_files,
)
from tfrecords.schema import CategoricalColumn, Schema

# Readers per file: one reads a row group's columns one after the other.
_READERS = 2
# TensorFlow allows letters and digits here.
_CONTAINER = "tfdlrm"


class ParquetSource:
    """The rows of Parquet files; the interface is that of `RecordSource`.

    ```
    DIR/train/*.parquet
    DIR/evaluation/*.parquet
    ```

    The order of the rows is a function of (seed, epoch) and the files alone: row groups are what
    records are to a data set folder. Row groups of 8,192 to 131,072 rows read fastest and shuffle
    best.

    Args:
        data_dir: A folder with one folder of `.parquet` files per split, also `s3://` and the like.
        description: What the columns are. Those of the categorical ones need `vocabulary_size` or
            `hash_buckets`, and one value per row.
        shuffle_window_rows: About how many rows are shuffled together when a seed is given.

    Attributes:
        schema: The columns.
        table: The description.
        fingerprint: A string that changes when the description changes, or a file's size or footer,
            which holds the position and (as most programs write it) the range of every column.

    Raises:
        DataError: If tensorflow-io is missing, a file is damaged or has not the columns described,
            or a column cannot be read without conversion.
    """

    def __init__(
        self,
        data_dir: str,
        description: TableDescription,
        shuffle_window_rows: int = SHUFFLE_WINDOW_ROWS,
    ) -> None:
        if shuffle_window_rows < 1:
            raise DataError(f"shuffle_window_rows must be at least 1, not {shuffle_window_rows}.")
        self._data_dir = data_dir
        self.table = description
        self._shuffle_window_rows = shuffle_window_rows
        self._read = _reading_operation()
        self.schema = _schema(description)
        self._splits = {
            split: [
                open_file(files.join(data_dir, split, name), f"{split}/{name}", description)
                for name in names
            ]
            for split, names in split_files(data_dir).items()
        }
        content = {
            "description": dataclasses.asdict(description),
            "files": {
                split: [(file.name, file.checksum) for file in listed]
                for split, listed in self._splits.items()
            },
        }
        self.fingerprint = hashlib.sha256(
            json.dumps(content, sort_keys=True).encode("utf-8")
        ).hexdigest()[:32]

    def rows(self, split: str) -> int:
        """Number of rows of a split.

        Raises:
            DataError: If there is no such split.
        """
        return sum(file.rows for file in self._files(split))

    def batches(
        self,
        split: str,
        batch_size: int,
        *,
        shuffle_seed: int | None = None,
        epoch: int = 0,
        first_row: int = 0,
        drop_remainder: bool = False,
        shard_index: int = 0,
        shard_count: int = 1,
        shard_by: str = "row",
    ) -> tf.data.Dataset:
        """One epoch of a split, or what is left of it: see `RecordSource.batches`."""
        listed = self._files(split)
        wanted = [
            (number, start, stop)
            for number, file in enumerate(listed)
            for start, stop in blocks(file.group_rows)
        ]
        places: np.ndarray = np.array(wanted, np.int64).reshape(-1, 3)
        order = epoch_order(
            places[:, 2] - places[:, 1],
            shuffle_seed=shuffle_seed,
            epoch=epoch,
            first_row=first_row,
            shuffle_window_rows=self._shuffle_window_rows,
            shard=Shard(shard_index, shard_count, shard_by),
            block_files=places[:, 0],
        )
        paths = tf.constant([file.path for file in listed], tf.string, shape=[len(listed)])
        # A reader belongs to one file, and two files can be alike.
        names = [f"{file.checksum}-{file.path}" for file in listed]
        shared = tf.constant(names, tf.string, shape=[len(listed)])
        totals = tf.constant([file.rows for file in listed], tf.int64, shape=[len(listed)])
        # Files of one split may differ in a column's type, which must be known beforehand.
        kinds = sorted({file.types for file in listed})
        kind_of = tf.constant([kinds.index(file.types) for file in listed], shape=[len(listed)])

        def read(reader: tf.Tensor, place: tf.Tensor) -> tuple[tf.RaggedTensor, ...]:
            file, start, stop = place[0], place[1], place[2]

            def columns(types: tuple[str, ...]) -> tuple[tf.Tensor, ...]:
                raw = {}
                for name, dtype in zip(self.table.used, types, strict=True):
                    raw[name] = self._read(
                        input=paths[file],
                        shared=tf.strings.join([shared[file], tf.strings.as_string(reader)], "-"),
                        component=name,
                        shape=totals[file : file + 1],
                        start=[start],
                        stop=[stop],
                        dtype=TYPES[dtype],
                        container=_CONTAINER,
                    )
                return self._features(raw)

            if len(kinds) == 1:
                made = columns(kinds[0])
            else:
                branches = [lambda types=types: columns(types) for types in kinds]
                made = tf.switch_case(kind_of[file], branches)
            # Ragged, since blocks of different lengths are put together.
            lengths = tf.reshape(stop - start, [1])
            return tuple(tf.RaggedTensor.from_row_lengths(column, lengths) for column in made)

        def fetch(indices: np.ndarray) -> tf.data.Dataset:
            readers: np.ndarray = np.arange(len(indices)) % _READERS
            dataset = tf.data.Dataset.from_tensor_slices((readers, places[indices]))
            return dataset.map(read, num_parallel_calls=4, deterministic=True)

        return ordered_batches(order, fetch, self._join, batch_size, drop_remainder)

    def only_label(self, split: str) -> float | None:
        """The label that all rows of a split have; None where they differ.

        Also None where one of them is not allowed, which reading says. Statistics of the files
        mostly show that labels differ. Where they don't, the column is read until two do: files
        need no statistics, and those of a column with NaN in it are silent on that.

        Raises:
            DataError: If there is no such split.
            tf.errors.OpError: If the column cannot be read; see `explain`.
        """
        said, read = LabelRange(), LabelRange()
        for file in self._files(split):
            said.add(self._label(tf.constant(file.label_bounds, tf.float64)).numpy())
        if said.differ:
            return None
        for file in self._files(split):
            for start, stop in blocks(file.group_rows):
                column = self.table.label.column
                labels = self._label(self._values(file, column, start, stop)).numpy()
                if not np.all((labels >= 0) & (labels <= 1)):  # a NaN is not
                    return None
                read.add(labels)
                if read.differ:
                    return None
        return read.low

    def explain(self, error: BaseException) -> str:
        """Finds out what is wrong with the files after an error while reading.

        Args:
            error: What TensorFlow raised.

        Returns:
            A whole sentence that names file, row, column and value; or, where the files are in
            order, one that says so and holds the first line of `error`.
        """
        for listed in self._splits.values():
            for file in listed:
                problem = self._problem(file)
                if problem is not None:
                    return problem
        return (
            f"Reading {self._data_dir} failed, but its files are whole, so the cause is "
            f"elsewhere: {first_line(error)}."
        )

    def _files(self, split: str) -> list[ParquetFile]:
        try:
            return self._splits[split]
        except KeyError:
            raise DataError(
                f"{self._data_dir} has no split {split!r}: no folder of that name with "
                f"{ENDING} files; it has {', '.join(sorted(self._splits)) or 'none'}."
            ) from None

    def _features(self, raw: dict[str, tf.Tensor]) -> tuple[tf.Tensor, ...]:
        """Label, dense columns and ids of rows, in the order of the schema."""
        made = [self._label(raw[self.table.label.column])]
        for dense in self.table.dense:
            values = raw[dense.column]
            number, fits = dense.meaning.graph_read(values, tf.zeros_like(values, tf.bool))
            # NaN is to be found.
            made.append(tf.where(fits, number, np.nan))
        for column in self.table.categorical:
            values = raw[column.column]
            missing = tf.zeros_like(values, tf.bool)
            if values.dtype == tf.string and self.table.null_values:
                null_values = tf.constant(self.table.null_values)
                missing = tf.reduce_any(values[:, tf.newaxis] == null_values, axis=1)
            ids, fits = column.meaning.graph_keys(values, missing)
            made.append(tf.where(fits, ids, -1))
        return tuple(made)

    def _label(self, values: tf.Tensor) -> tf.Tensor:
        """Labels, float32, of values of their column; NaN of those that are none."""
        label, fits = self.table.label.meaning.graph_read(values)
        return tf.where(fits, label, np.nan)

    def _join(
        self, blocks: tuple[tf.RaggedTensor, ...], rows: tf.Tensor
    ) -> tuple[Features, tf.Tensor]:
        """The rows of the blocks of a window, checked."""
        # tf.reshape refuses another number of values: that is the check that no row is missing.
        flat = [tf.reshape(block.flat_values, [tf.cast(rows, tf.int32)]) for block in blocks]
        label, dense, ids = flat[0], flat[1 : 1 + len(self.schema.dense)], flat[1:]
        ids = ids[len(dense) :]
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(number)) for number in dense])
        within = tf.reduce_all((label >= 0) & (label <= 1))
        inside = tf.reduce_all(
            [
                tf.reduce_all((value >= 0) & (value < column.vocabulary_size))
                for column, value in zip(self.schema.categorical, ids, strict=True)
            ]
        )
        checks = [
            tf.debugging.Assert(finite, ["A dense value is not finite."]),
            tf.debugging.Assert(within, ["A label does not lie in [0, 1]."]),
            tf.debugging.Assert(inside, ["An id lies outside its vocabulary."]),
        ]
        with tf.control_dependencies(checks):
            features: Features = {}
            if dense:
                features["dense"] = tf.stack(dense, axis=1)
            for column, value in zip(self.schema.categorical, ids, strict=True):
                features[column.name] = tf.cast(value, tf.as_dtype(column.dtype.type))
            return features, tf.identity(label)

    def _problem(self, file: ParquetFile) -> str | None:
        """A sentence on the first fault of a file, or None."""
        try:
            if metadata_and_checksum(file.path)[1] != file.checksum:
                return f"The file {file.path} has changed since it was opened."
        except (DataError, OSError) as error:
            return str(error)
        names = [self.schema.label, *self.schema.dense, *self.schema.categorical_names]
        for start, stop in blocks(file.group_rows):
            raw = {}
            for column in self.table.used:
                try:
                    raw[column] = self._values(file, column, start, stop)
                except tf.errors.OpError as error:
                    return (
                        f"The column {column!r} of {file.path} cannot be read in rows {start} to "
                        f"{stop - 1}: {str(error).splitlines()[0]}"
                    )
            for name, value in zip(names, self._features(raw), strict=True):
                wrong, allowed = self._wrong(name, value.numpy())
                if wrong.any():
                    row = int(np.argmax(wrong))
                    return (
                        f"Row {start + row} of the column of {name!r} in {file.path} is "
                        f"{value.numpy()[row]}; {allowed}."
                    )
        return None

    def _values(self, file: ParquetFile, column: str, start: int, stop: int) -> tf.Tensor:
        """The values of some rows of a column, at once."""
        return self._read(
            input=file.path,
            shared=f"{file.checksum}-{file.path}",
            component=column,
            shape=[file.rows],
            start=[start],
            stop=[stop],
            dtype=TYPES[file.types[self.table.used.index(column)]],
            container=_CONTAINER,
        )

    def _wrong(self, name: str, value: np.ndarray) -> tuple[np.ndarray, str]:
        if name == self.schema.label:
            return ~((value >= 0) & (value <= 1)), "a label must lie between 0 and 1"
        if name in self.schema.dense:
            return ~np.isfinite(value), "dense values must be finite numbers"
        size = next(c.vocabulary_size for c in self.schema.categorical if c.name == name)
        return (value < 0) | (value >= size), f"ids must lie in [0, {size})"


def _reading_operation() -> Any:
    files.with_tensorflow_io("Reading Parquet files without conversion")
    from tensorflow_io.python.ops import core_ops

    return core_ops.io_parquet_readable_read


def _schema(description: TableDescription) -> Schema:
    convert = "; `python -m tfrecords.convert` makes a data set of such a table"
    if description.format != "parquet":
        raise DataError(
            f"The description is of a table in {description.format!r}; only 'parquet' can be read "
            f"without conversion{convert}."
        )
    if description.label.positive_values:
        raise DataError(
            f"The label {description.label.column!r} is text (positive_values), which cannot be "
            f"read without conversion{convert}."
        )
    columns = []
    for column in description.categorical:
        if column.hotness != 1 or column.separator is not None:
            raise DataError(
                f"The feature {column.name!r} has many values per row, which tensorflow-io's "
                f"reader of Parquet does not know{convert}."
            )
        size = column.vocabulary_size or column.hash_buckets
        if size is None:
            raise DataError(
                f"The feature {column.name!r} has neither vocabulary_size (its values are ids "
                f"already) nor hash_buckets, so it cannot be read without conversion{convert}."
            )
        columns.append(CategoricalColumn(column.name, size))
    return Schema(
        dense=tuple(column.name for column in description.dense),
        categorical=tuple(columns),
        label=description.label.column,
    )
