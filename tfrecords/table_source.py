"""Trains on tables (Parquet, Arrow, CSV, TSV) as they are, by the same function that converts them.

For tables whose values need no counting: ids that are ids already, or hashes; or by the vocabulary
of a data set, which knows the ids of all others.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json

import numpy as np
import pyarrow as pa
import tensorflow as tf

from tfrecords import block, files
from tfrecords.conversion import learnt_numbers, meanings, table_rows
from tfrecords.conversion.known_vocabularies import KnownVocabularies
from tfrecords.conversion.rows import Rows
from tfrecords.conversion.table_description import TableDescription
from tfrecords.conversion.vocabulary import Vocabulary
from tfrecords.dataset_info import VocabularyInfo
from tfrecords.epoch import SHUFFLE_WINDOW_ROWS, Shard, epoch_order
from tfrecords.errors import DataError, first_line
from tfrecords.odd_labels import LabelRange
from tfrecords.order import Features, ordered_batches
from tfrecords.reader import decode_records
from tfrecords.schema import CategoricalColumn, Schema
from tfrecords.table_files import Block, TableFile, open_table, split_files

_READERS = 2


class TableSource:
    """The rows of tables; the interface is that of `RecordSource`.

    ```
    DIR/train/*.parquet
    DIR/evaluation/*.parquet
    ```

    The order of the rows is a function of (seed, epoch) and the files alone: row groups of Parquet,
    batches of Arrow, and 4 MiB of text are what records are to a data set folder. Row groups and
    batches of 8,192 to 131,072 rows read fastest and shuffle best. Text is read once more to begin
    with, to find where its blocks begin.

    Args:
        data_dir: A folder with one folder of files per split, also `s3://` and the like.
        description: What the columns are.
        shuffle_window_rows: About how many rows are shuffled together when a seed is given.
        vocabulary_of: A data set folder whose vocabularies give ids to the values of columns that
            have neither `vocabulary_size` nor `hash_buckets`; empty for none.

    Attributes:
        schema: The columns.
        table: The description.
        vocabularies: What `dataset.json` of `vocabulary_of` says of those that are used, by column.
        fingerprint: A string that changes when the description, a vocabulary or a file changes; of
            Parquet a file's size or footer, which holds the position and (as most programs write
            it) the range of every column.

    Raises:
        DataError: If a file is damaged or has not the columns described, a column needs a
            vocabulary that is not there, or one whose values mean something else.
    """

    def __init__(
        self,
        data_dir: str,
        description: TableDescription,
        shuffle_window_rows: int = SHUFFLE_WINDOW_ROWS,
        vocabulary_of: str = "",
    ) -> None:
        if shuffle_window_rows < 1:
            raise DataError(f"shuffle_window_rows must be at least 1, not {shuffle_window_rows}.")
        self._data_dir = data_dir
        # The files are the splits.
        description = dataclasses.replace(description, time=None)
        if vocabulary_of:
            description = learnt_numbers.of_data_set(description, vocabulary_of)
        for number in learnt_numbers.to_learn(description):
            column = description.dense[number]
            raise DataError(
                f"The feature {column.name!r} is transformed by {column.transform!r}, whose "
                "constants are learnt by a conversion: name the data set that has them, or make "
                "one with `python -m tfrecords.convert`."
            )
        self.table = description
        self._shuffle_window_rows = shuffle_window_rows
        self.vocabularies, self._lookups = _vocabularies(description, vocabulary_of)
        self.schema = _schema(description, self._lookups)
        self._splits = {
            split: [
                open_table(files.join(data_dir, split, name), f"{split}/{name}", description)
                for name in names
            ]
            for split, names in split_files(data_dir, description.format).items()
        }
        content = {
            "description": dataclasses.asdict(description),
            "files": {
                split: [(file.name, file.checksum) for file in listed]
                for split, listed in self._splits.items()
            },
        }
        if self.vocabularies:
            content["vocabularies"] = {
                name: (info.crc32c, info.reserved) for name, info in self.vocabularies.items()
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
        blocks = [(file, part) for file in self._files(split) for part in file.blocks]
        numbers = [k for k, file in enumerate(self._files(split)) for _ in file.blocks]
        order = epoch_order(
            np.array([part.rows for _, part in blocks], np.int64),
            shuffle_seed=shuffle_seed,
            epoch=epoch,
            first_row=first_row,
            shuffle_window_rows=self._shuffle_window_rows,
            shard=Shard(shard_index, shard_count, shard_by),
            block_files=np.array(numbers, np.int64),
        )

        def read(number: np.ndarray) -> bytes:
            return block.encode(self.schema, self._columns(*blocks[int(number)]))

        def fetch(indices: np.ndarray) -> tf.data.Dataset:
            def record(number: tf.Tensor) -> tf.Tensor:
                return tf.ensure_shape(tf.numpy_function(read, [number], tf.string), [])

            wanted = tf.data.Dataset.from_tensor_slices(indices.astype(np.int64))
            return wanted.map(record, num_parallel_calls=_READERS, deterministic=True)

        def load(records: tf.Tensor, rows: tf.Tensor) -> tuple[Features, tf.Tensor]:
            return decode_records(self.schema, records, rows)

        return ordered_batches(order, fetch, load, batch_size, drop_remainder)

    def only_label(self, split: str) -> float | None:
        """The label that all rows of a split have; None where they differ.

        Also None where one of them is not allowed, which reading says. Statistics of the files
        mostly show that labels differ. Where they don't, the column is read until two do: files
        need no statistics, and those of a column with NaN in it are silent on that.

        Raises:
            DataError: If there is no such split, or the column cannot be read.
        """
        label = self.table.label
        said, read = LabelRange(), LabelRange()
        for file in self._files(split):
            if file.label_bounds and not label.positive_values:
                found = label.meaning.read(pa.array(file.label_bounds), lambda *_: None)
                said.add(found)
        if said.differ:
            return None
        wrong: list[int] = []
        for file in self._files(split):
            for part in file.blocks:
                values = file.read(part, [label.column])
                column = table_rows.array(values, label.column)
                read.add(label.meaning.read(column, lambda row, *_: wrong.append(row)))
                if wrong or read.differ:
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
                try:
                    file.check_unchanged()
                    for part in file.blocks:
                        self._columns(file, part)
                except DataError as problem:
                    return str(problem)
        return (
            f"Reading {self._data_dir} failed, but its files are whole, so the cause is "
            f"elsewhere: {first_line(error)}."
        )

    def _files(self, split: str) -> list[TableFile]:
        try:
            return self._splits[split]
        except KeyError:
            raise DataError(
                f"{self._data_dir} has no split {split!r}: no folder of that name with files of "
                f"the table; it has {', '.join(sorted(self._splits)) or 'none'}."
            ) from None

    def _columns(self, file: TableFile, part: Block) -> dict[str, np.ndarray]:
        """The columns of some rows of a file, as `block.encode` takes them."""
        values = file.read(part, list(self.table.used))
        rows, bad = table_rows.to_rows(values, self.table)
        if bad:
            raise DataError(f"{file.place(part, bad[0].line)} is no row: {bad[0].what}.")
        if rows is None:
            raise DataError(f"{file.path} has no rows where {part.rows} were.")
        return self._ids(rows)

    def _ids(self, rows: Rows) -> dict[str, np.ndarray]:
        columns = {self.schema.label: rows.label}
        if self.schema.dense:
            columns[block.DENSE] = rows.dense.T
        for column, keys, lengths in zip(
            self.schema.categorical, rows.keys, rows.lengths, strict=True
        ):
            lookup = self._lookups.get(column.name)
            columns[column.name] = keys if lookup is None else lookup.look_up(keys)
            if lengths is not None:
                columns[column.name + block.LENGTHS] = lengths
        return columns


def _vocabularies(
    description: TableDescription, folder: str
) -> tuple[dict[str, VocabularyInfo], dict[str, Vocabulary]]:
    """The vocabularies of the columns that need one."""
    needed = [column for column in description.categorical if column.meaning.size is None]
    if not folder:
        if needed:
            raise DataError(
                f"The feature {needed[0].name!r} has neither vocabulary_size (its values are ids "
                "already) nor hash_buckets, so its ids are those of a vocabulary: name the data "
                "set that has it, or make one with `python -m tfrecords.convert`."
            )
        return {}, {}
    known = KnownVocabularies(
        folder, [column.name for column in needed], meanings.of_table(description)
    )
    infos = {name: found.info for name, found in known.columns.items()}
    return infos, {
        name: Vocabulary.in_order(found.keys, found.info.reserved)
        for name, found in known.columns.items()
    }


def _schema(description: TableDescription, lookups: dict[str, Vocabulary]) -> Schema:
    columns = []
    for column in description.categorical:
        lookup = lookups.get(column.name)
        size, unknown = column.meaning.size, None
        if lookup is not None:
            size, unknown = lookup.size, 0 if lookup.reserved else None
        assert size is not None  # for mypy: _vocabularies has refused it
        columns.append(CategoricalColumn(column.name, size, column.hotness, unknown))
    return Schema(
        dense=tuple(column.name for column in description.dense),
        categorical=tuple(columns),
        label=description.label.column,
    )
