"""Reads a data set folder in batches."""

from __future__ import annotations

import tempfile

import numpy as np
import tensorflow as tf

from tfrecords import block, files, verify
from tfrecords.conversion.known_vocabularies import known_vocabulary
from tfrecords.conversion.vocabulary_files import write_vocabulary
from tfrecords.dataset_info import DatasetInfo, SplitInfo, VocabularyInfo
from tfrecords.epoch import SHUFFLE_WINDOW_ROWS, Shard, epoch_order
from tfrecords.errors import DataError, first_line
from tfrecords.order import Features, ordered_batches
from tfrecords.remote_records import fetch_records
from tfrecords.schema import CategoricalColumn, Schema


class RecordSource:
    """The rows of a data set folder.

    ```python
    source = RecordSource("clicks")
    for features, label in source.batches("train", 2048, shuffle_seed=1, epoch=0):
        ...
    ```

    Args:
        data_dir: The folder.
        shuffle_window_rows: About how many rows are shuffled together when a seed is given.

    Attributes:
        schema: The columns.
        info: The content of `dataset.json`.
        fingerprint: A string that changes when the content of the data set changes.

    Raises:
        DataError: If the folder is no whole data set.
    """

    def __init__(self, data_dir: str, shuffle_window_rows: int = SHUFFLE_WINDOW_ROWS) -> None:
        if shuffle_window_rows < 1:
            raise DataError(f"shuffle_window_rows must be at least 1, not {shuffle_window_rows}.")
        self._data_dir = data_dir
        self._shuffle_window_rows = shuffle_window_rows
        self.info = DatasetInfo.load(data_dir)
        self.schema: Schema = self.info.schema
        self.fingerprint = self.info.fingerprint

    def rows(self, split: str) -> int:
        """Number of rows of a split.

        Raises:
            DataError: If there is no such split.
        """
        return self._split(split).rows

    def first_values(self, column: str, size: int) -> VocabularyInfo:
        """What `dataset.json` would say of a vocabulary of the first `size` ids of a column.

        Raises:
            DataError: If the column has no vocabulary, or a damaged one.
        """
        known = known_vocabulary(self._data_dir, self.info, column)
        with tempfile.TemporaryDirectory() as folder:
            keys = known.keys[: size - known.info.reserved]
            return write_vocabulary(folder, column, keys, known.info.reserved)

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
        """One epoch of a split, or what is left of it.

        The order of the rows is a function of (`shuffle_seed`, `epoch`) and the data set alone:
        not of the batch size, the parallelism, or where reading begins.

        Args:
            split: "train" or "evaluation".
            batch_size: Rows in a batch.
            shuffle_seed: None: file order. A number: blocks of rows in a random order, and rows
                shuffled within windows of `shuffle_window_rows`.
            epoch: Another number gives another order (with a seed).
            first_row: How many rows of the epoch's order to leave out at its beginning. A run that
                was stopped after 7,000 rows goes on with `first_row=7000`, at any batch size.
            drop_remainder: Whether to leave out a last batch that is smaller.
            shard_index: Which of `shard_count` workers reads; `batch_size` is one worker's, while
                `first_row` counts the rows of all of them.
            shard_count: Number of workers. All have equally many batches; where the last step has
                fewer rows than there are workers, some have a batch of no rows.
            shard_by: "row": any number of workers, which together see the batches that one reader
                has; each reads all blocks. "block": each reads blocks of its own, in an order that
                is the same for any number of workers that it allows. "file": each reads files of
                its own, in an order that belongs to this number of workers. See
                `tfrecords.epoch`.

        Returns:
            A dataset of `({"dense": float32 [batch, columns], NAME: ids, ...}, label)`: ids are
            int32 (int64 for vocabularies of 2**31 and more) of shape `[batch]`,
            `[batch, hotness]`, or ragged `[batch, None]`; the label is float32 `[batch]`. There is
            no "dense" where the schema has no dense columns.

            While reading, TensorFlow raises `DataLossError`, `InvalidArgumentError`,
            `OutOfRangeError` or `FailedPreconditionError` for files that have changed; `explain`
            turns them into a sentence.

        Raises:
            DataError: If there is no such split, an argument is out of range, or a record has
                another length than `dataset.json` says.
        """
        info = self._split(split)
        verify.check_lengths(self._data_dir, info)
        file_of: np.ndarray = np.repeat(
            np.arange(len(info.files)), [len(file.offsets) for file in info.files]
        )
        order = epoch_order(
            info.record_rows,
            shuffle_seed=shuffle_seed,
            epoch=epoch,
            first_row=first_row,
            shuffle_window_rows=self._shuffle_window_rows,
            shard=Shard(shard_index, shard_count, shard_by),
            block_files=file_of,
        )
        paths = np.array([files.join(self._data_dir, file.path) for file in info.files], object)
        record_of = np.concatenate(
            [np.arange(len(file.offsets)) for file in info.files] or [np.zeros(0, np.int64)]
        )

        def fetch(blocks: np.ndarray) -> tf.data.Dataset:
            if files.is_remote(self._data_dir):
                return fetch_records(paths, info.files, file_of[blocks], record_of[blocks])
            return _records(paths, file_of[blocks], record_of[blocks])

        def load(records: tf.Tensor, rows: tf.Tensor) -> tuple[Features, tf.Tensor]:
            return decode_records(self.schema, records, rows, info.rows_per_record)

        return ordered_batches(order, fetch, load, batch_size, drop_remainder)

    def dataset(
        self,
        split: str,
        batch_size: int,
        *,
        shuffle_seed: int | None = None,
        epochs: int = 1,
        drop_remainder: bool = False,
    ) -> tf.data.Dataset:
        """Batches of (features, label) for Keras's `fit`, `evaluate` and loops of one's own.

        Args:
            split: "train", "evaluation" or another one of the data set.
            batch_size: Rows in a batch.
            shuffle_seed: As of `batches`: None for file order.
            epochs: Number of epochs, one after the other, each in an order of its own where there
                is a seed. `fit(..., epochs=n)` would show the rows of one epoch `n` times in the
                same order.
            drop_remainder: Whether to leave out the last batch of an epoch if it is smaller.

        Raises:
            DataError: As `batches`, or if there is no epoch.
        """
        if epochs < 1:
            raise DataError(f"epochs must be at least 1, not {epochs}.")
        parts = [
            self.batches(
                split,
                batch_size,
                shuffle_seed=shuffle_seed,
                epoch=epoch,
                drop_remainder=drop_remainder,
            )
            for epoch in range(epochs)
        ]
        dataset = parts[0]
        for part in parts[1:]:
            dataset = dataset.concatenate(part)
        return dataset

    def only_label(self, split: str) -> float | None:
        """The label, 0 or 1, that all rows of a split have; None where they differ.

        Raises:
            DataError: If there is no such split.
        """
        info = self._split(split)
        return info.label_sum / info.rows if info.label_sum in (0, info.rows) else None

    def explain(self, error: BaseException) -> str:
        """Finds out what is wrong with the files after an error while reading.

        Args:
            error: What TensorFlow raised.

        Returns:
            A whole sentence that names file, record and, for a value, column, row and value; or,
            where the files are in order, one that says so and holds the first line of `error`.
        """
        problem = verify.first_problem(self._data_dir, self.info)
        if problem is not None:
            return problem
        return (
            f"Reading {self._data_dir} failed, but its files are whole, so the cause is "
            f"elsewhere: {first_line(error)}."
        )

    def _split(self, split: str) -> SplitInfo:
        try:
            return self.info.splits[split]
        except KeyError:
            raise DataError(
                f"The data set {self._data_dir} has no split {split!r}; it has "
                f"{', '.join(sorted(self.info.splits)) or 'none'}."
            ) from None


def _records(paths: np.ndarray, file_of: np.ndarray, record_of: np.ndarray) -> tf.data.Dataset:
    """One serialized record per (file, record in the file), in order."""
    names = tf.constant(paths.tolist(), tf.string, shape=[len(paths)])

    def read(file: tf.Tensor, record: tf.Tensor) -> tf.data.Dataset:
        # Unbuffered: skipping a record reads its length only, the wanted one comes in one piece.
        return tf.data.TFRecordDataset(tf.gather(names, file), buffer_size=0).skip(record).take(1)

    places = tf.data.Dataset.from_tensor_slices((file_of.astype(np.int64), record_of))
    return places.interleave(read, cycle_length=2, num_parallel_calls=2, deterministic=True)


def decode_records(
    schema: Schema, records: tf.Tensor, rows: tf.Tensor, rows_per_record: int = 0
) -> tuple[Features, tf.Tensor]:
    """The rows of records, checked.

    Args:
        schema: The columns.
        records: string `[records]`, each what `block.encode` makes.
        rows: int64 scalar, how many rows they must hold.
        rows_per_record: Rows of each record but perhaps the last, where that is known.
    """
    flat = _flat_columns(schema, records, rows, rows_per_record)
    # tf.reshape refuses another number of values: that is the check that no row is missing.
    rows32 = tf.cast(rows, tf.int32)
    label = tf.reshape(flat[schema.label], [rows32])
    finite = [tf.reduce_all(tf.math.is_finite(label))]
    features: Features = {}
    if schema.dense:
        features[block.DENSE] = tf.reshape(flat[block.DENSE], [rows32, len(schema.dense)])
        finite.append(tf.reduce_all(tf.math.is_finite(features[block.DENSE])))
    inside = []
    for column in schema.categorical:
        ids = flat[column.name]
        inside.append(_all_inside(ids, column))
        features[column.name] = _ids(column, flat, rows32)
    checks = [
        tf.debugging.Assert(
            tf.reduce_all(finite), ["A dense value or a label of the data set is not finite."]
        ),
        tf.debugging.Assert(
            tf.reduce_all(inside), ["An id of the data set lies outside its vocabulary."]
        ),
    ]
    with tf.control_dependencies(checks):
        return tf.nest.map_structure(tf.identity, (features, label))


def _flat_columns(
    schema: Schema, records: tf.Tensor, rows: tf.Tensor, rows_per_record: int
) -> Features:
    """The values of each feature of the records, one record's behind the other's."""
    types = {name: tf.as_dtype(t.type) for name, t in block.feature_types(schema).items()}
    ragged = {column.name for column in schema.categorical if column.hotness is None}
    parsed = tf.io.parse_example(
        records, {name: tf.io.FixedLenFeature([], tf.string) for name in types}
    )

    def joined(names: list[str]) -> list[tf.Tensor]:
        return [tf.io.decode_raw(tf.strings.reduce_join(parsed[n]), types[n]) for n in names]

    def side_by_side(names: list[str]) -> list[tf.Tensor]:
        return [tf.reshape(tf.io.decode_raw(parsed[n], types[n]), [-1]) for n in names]

    # Strings of one length can be decoded together; joining them first would copy them once more.
    even = [name for name in types if name not in ragged]
    uneven = [name for name in types if name in ragged]
    all_whole = tf.equal(rows, tf.size(records, tf.int64) * rows_per_record)
    values = tf.cond(all_whole, lambda: side_by_side(even), lambda: joined(even))
    return dict(zip([*even, *uneven], [*values, *joined(uneven)], strict=True))


def _ids(column: CategoricalColumn, flat: Features, rows: tf.Tensor) -> tf.Tensor:
    ids = flat[column.name]
    if column.hotness is None:
        lengths = tf.reshape(flat[column.name + block.LENGTHS], [rows])
        return tf.RaggedTensor.from_row_lengths(ids, lengths)
    shape = [rows] if column.hotness == 1 else [rows, column.hotness]
    return tf.reshape(ids, shape)


def _all_inside(ids: tf.Tensor, column: CategoricalColumn) -> tf.Tensor:
    # A negative id is a large unsigned number, so one comparison finds both kinds.
    unsigned = tf.bitcast(ids, tf.uint64 if ids.dtype == tf.int64 else tf.uint32)
    return tf.reduce_all(unsigned < tf.constant(column.vocabulary_size, unsigned.dtype))
