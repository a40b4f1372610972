"""The examples of a run: files of several kinds, or examples made on the fly."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol

import tensorflow as tf

from tf_dlrm.errors import UserError, as_user_error
from tf_dlrm.training.options.config import DataOptions
from tfrecords.conversion import description_file
from tfrecords.conversion.meanings import Meaning, of_data_set, of_table
from tfrecords.dataset_info import VocabularyInfo
from tfrecords.errors import DataError
from tfrecords.random import RandomSource
from tfrecords.random_schema import random_schema, table_sizes
from tfrecords.reader import RecordSource
from tfrecords.schema import Schema
from tfrecords.table_source import TableSource
from tfrecords.traces.source import SyntheticSource

# Rows from which the ids per example of ragged columns are counted.
_SAMPLE_ROWS = 65_536


class Source(Protocol):
    """What training and evaluation ask of a source of examples.

    Attributes:
        schema: Names, vocabulary sizes and hotness of the columns.
        fingerprint: A text that differs where the examples differ.
    """

    schema: Schema
    fingerprint: str

    def rows(self, split: str) -> int:
        """Number of rows in a split; DataError for a split that is not there."""

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
        """Batches of ({"dense": [batch, n], feature: ids}, labels [batch]).

        See `RecordSource.batches` for the arguments.
        """

    def only_label(self, split: str) -> float | None:
        """The label that all rows of a split have; None where they differ or it isn't known."""

    def explain(self, error: BaseException) -> str:
        """Says in a sentence what is wrong with the data, after reading failed."""


def open_source(options: DataOptions) -> Source:
    """Opens the source that the options name.

    Raises:
        UserError: if the folder is not a whole data set.
    """
    with as_user_error():
        if options.data == "folder":
            return RecordSource(options.data_dir, shuffle_window_rows=options.shuffle_window_rows)
        if options.data in ("table", "parquet"):
            description = description_file.load(options.data_schema)
            window, vocabulary = options.shuffle_window_rows, options.data_vocabulary
            return TableSource(options.data_dir, description, window, vocabulary)
        if options.data == "synthetic":
            rows = {
                "train": options.synthetic_train_rows,
                "evaluation": options.synthetic_evaluation_rows,
            }
            wanted = {split: count for split, count in rows.items() if count}
            original = SyntheticSource(options.synthetic_dir, seed=options.synthetic_seed)
            if not wanted:
                return original
            wanted = {split: original.rows(split) for split in original.splits} | wanted
            return SyntheticSource(options.synthetic_dir, wanted, options.synthetic_seed)
        return _random_source(options)


def mean_hotness(source: Source) -> dict[str, float]:
    """Returns for each feature the mean number of ids in an example.

    Where the numbers differ, it is that of the first rows.

    Raises:
        UserError: If these cannot be read.
    """
    columns = source.schema.categorical
    hotness = {column.name: float(column.hotness) for column in columns if column.hotness}
    ragged = [column.name for column in columns if not column.hotness]
    if ragged:
        rows = min(_SAMPLE_ROWS, source.rows("train"))
        with readable_errors(source):
            for features, _ in source.batches("train", rows).take(1):
                for name in ragged:
                    # A column without any id still has a table, which costs next to nothing.
                    hotness[name] = max(int(features[name].values.shape[0]), 1) / rows
    return hotness


def vocabulary_checksums(source: Source) -> dict[str, str]:
    """Returns for each column that has a vocabulary a text that differs where its ids differ."""
    found = {}
    if isinstance(source, RecordSource):
        found = source.info.vocabularies
    elif isinstance(source, TableSource):
        found = source.vocabularies
    return {name: _checksum(vocabulary) for name, vocabulary in found.items()}


def first_values_checksum(source: Source, column: str, size: int) -> str:
    """Returns what `vocabulary_checksums` says of data that knows the first `size` ids alone.

    Raises:
        UserError: If the vocabulary of the column is not at hand.
    """
    if not isinstance(source, RecordSource):
        raise UserError(
            f"The vocabulary of {column!r} has grown, which can be told of data set folders only; "
            "convert the table."
        )
    try:
        return _checksum(source.first_values(column, size))
    except DataError as error:
        raise UserError(str(error)) from error


def _checksum(vocabulary: VocabularyInfo) -> str:
    return f"{vocabulary.crc32c} from id {vocabulary.reserved}"


def meanings(source: Source) -> dict[str, Meaning]:
    """Returns what the values of label and features mean; nothing where the data does not say it.

    See `tfrecords.conversion.meanings`.
    """
    if isinstance(source, RecordSource):
        return of_data_set(source.info.how_it_was_made)
    return of_table(source.table) if isinstance(source, TableSource) else {}


def only_label(source: Source, split: str) -> float | None:
    """Returns the label that all rows of a split have.

    None where they differ, where it is not known, and where there are no two rows.

    Raises:
        UserError: If the labels cannot be read.
    """
    if rows_or_none(source, split) < 2:
        return None
    with readable_errors(source):
        return source.only_label(split)


def rows_or_none(source: Source, split: str) -> int:
    """Number of rows in a split; 0 where the data has no such split."""
    try:
        return source.rows(split)
    except DataError:
        return 0


def _random_source(options: DataOptions) -> RandomSource:
    lookup = options.random_indices_per_lookup
    return RandomSource(
        random_schema(
            table_sizes(options.random_tables, options.random_max_vocabulary),
            options.random_dense_features,
            lookup if options.random_indices_per_lookup_fixed else None,
        ),
        rows={"train": options.random_train_rows, "evaluation": options.random_evaluation_rows},
        seed=options.random_seed,
        alpha=options.random_alpha,
        label=options.random_label,
        shuffle_window_rows=options.shuffle_window_rows,
        ids=options.random_ids,
        repeats=options.random_repeats,
        indices_per_lookup=lookup,
        dense=options.random_dense,
    )


@contextlib.contextmanager
def readable_errors(source: Source) -> Iterator[None]:
    """Turns TensorFlow's errors about the data into a sentence that names file and record."""
    try:
        yield
    except DataError as error:
        raise UserError(str(error)) from error
    except (
        tf.errors.DataLossError,
        tf.errors.FailedPreconditionError,
        tf.errors.InvalidArgumentError,
        tf.errors.NotFoundError,
        tf.errors.OutOfRangeError,
        tf.errors.PermissionDeniedError,
        tf.errors.UnknownError,  # of a disk that fails
    ) as error:
        raise UserError(source.explain(error)) from error
