"""A synthetic twin of a data set for training on the fly, without files of rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfrecords import block
from tfrecords.epoch import Shard
from tfrecords.errors import DataError, first_line
from tfrecords.order import Features
from tfrecords.rebatching import no_rows, rebatch
from tfrecords.schema import Schema
from tfrecords.traces.rows import TwinRows
from tfrecords.traces.twin import Twin
from tfrecords.tracing import traced_as_written

_BLOCK_ROWS = 8192
_FILE_ORDER, _EPOCHS, _SHARDS = 0, 1, 2
_ALL = Shard()


class SyntheticSource:
    """Rows drawn from the distributions of a data set; the interface is that of `RecordSource`.

    A split is one stream: the traces of its columns run on from batch to batch, so the locality
    of the original reaches the embedding tables at any batch size (see `TwinRows`). Splits have
    streams of their own.

    Args:
        distribution_dir: Folder made by `python -m tfrecords.synthetic profile --feature=all`.
        rows: Rows per split, for example `{"train": 1_000_000, "evaluation": 100_000}`; None: as
            many as the original has.
        seed: Another seed gives other rows.

    Attributes:
        schema: The columns of the original.
        fingerprint: A string that changes when the distributions or arguments change.

    Raises:
        DataError: If the folder cannot be used or an argument is not allowed.
    """

    def __init__(
        self, distribution_dir: str, rows: Mapping[str, int] | None = None, seed: int = 0
    ) -> None:
        self._twin = Twin.load(distribution_dir)
        self._rows = dict(self._twin.rows if rows is None else rows)
        for split, count in self._rows.items():
            if count < 0:
                raise DataError(f"The split {split!r} cannot have {count} rows.")
        self._seed = seed
        self.schema: Schema = self._twin.schema
        self.fingerprint = hashlib.sha256(
            json.dumps(self.description(), sort_keys=True).encode()
        ).hexdigest()[:32]

    def description(self) -> dict[str, Any]:
        """All that determines the rows, for `dataset.json`."""
        return {
            "source": "tfrecords.synthetic",
            "distributions": self._twin.fingerprint,
            "profile": self._twin.how_it_was_made,
            "rows": self._rows,
            "seed": self._seed,
        }

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self._rows)

    def rows(self, split: str) -> int:
        """Number of rows of a split.

        Raises:
            DataError: If there is no such split.
        """
        try:
            return self._rows[split]
        except KeyError:
            raise DataError(
                f"The synthetic source has no split {split!r}; it has {', '.join(self._rows)}."
            ) from None

    def blocks(
        self,
        split: str,
        *,
        shuffle_seed: int | None = None,
        epoch: int = 0,
        first_row: int = 0,
        block_rows: int = _BLOCK_ROWS,
        shard: Shard = _ALL,
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yields rows as arrays (see `TwinRows.take`).

        They are those of `batches`; by row, those of all shards.
        """
        stream = [_FILE_ORDER] if shuffle_seed is None else [_EPOCHS, shuffle_seed, epoch]
        total = self.rows(split)
        if shard.by == "block" and shard.count > 1:
            stream += [_SHARDS, shard.count, shard.index]
            # Of the positions of all shards, those that are `index` modulo `count`.
            total = _rows_before(total, shard)
            first_row = _rows_before(first_row, shard)
        rows = TwinRows(self._twin, split, self._seed, *stream)
        rows.skip(first_row)
        for start in range(first_row, total, block_rows):
            yield rows.take(min(block_rows, total - start))

    @traced_as_written
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

        Rows are never reordered: that would destroy the locality for which they are made. Without
        a `shuffle_seed` every epoch has the same rows; with one, epoch `e` is another stream of
        the same kind, a function of (seed, shuffle_seed, e) and the position.

        Args:
            split: Name of the split.
            batch_size: Rows in a batch.
            shuffle_seed: None, or a number (see above).
            epoch: With a seed, another number gives other rows.
            first_row: How many rows to leave out at the beginning. Their ids have to be drawn all
                the same: about 1 second for a million ids of a column.
            drop_remainder: Whether to leave out a last batch that is smaller.
            shard_index: As for `RecordSource.batches`.
            shard_count: As for `RecordSource.batches`.
            shard_by: "row": the shards together see the rows of one reader; each draws all of
                them. "block": each draws only its own, a stream of the same kind, so another number
                of shards sees other rows.

        Returns:
            As `RecordSource.batches`. The rows are made in Python, so the dataset can be neither
            serialised nor run in another process.

        Raises:
            DataError: If there is no such split or an argument is out of range.
        """
        total = self.rows(split)
        if batch_size < 1:
            raise DataError(f"batch_size must be at least 1, not {batch_size}.")
        if not 0 <= first_row <= total:
            raise DataError(
                f"first_row must lie between 0 and the number of rows, {total}, not {first_row}."
            )
        if epoch < 0:
            raise DataError(f"epoch must be at least 0, not {epoch}.")

        shard = Shard(shard_index, shard_count, shard_by)
        if shard_by == "file":
            raise DataError("shard_by='file' needs a data set of files; this source has none.")

        def arrays() -> Iterator[dict[str, np.ndarray]]:
            return self.blocks(
                split, shuffle_seed=shuffle_seed, epoch=epoch, first_row=first_row, shard=shard
            )

        dataset = tf.data.Dataset.from_generator(arrays, output_signature=self._signature())
        dataset = dataset.prefetch(1).map(self._features_and_label)
        together = batch_size * shard_count
        left = total - first_row
        batches = left // together if drop_remainder else -(-left // together)
        if shard_by == "row":
            dataset = rebatch(dataset, together, left, drop_remainder)
            if shard_count > 1:
                # Batches of all shards begin at the same position modulo `shard_count`.
                own = (shard_index - first_row) % shard_count
                dataset = dataset.map(
                    lambda *batch: tf.nest.map_structure(
                        lambda column: column[own::shard_count], batch
                    )
                )
        else:
            own = _rows_before(total, shard) - _rows_before(first_row, shard)
            dataset = rebatch(dataset, batch_size, own, drop_remainder)
            # A shard may have a row less than others, and for that one no batch.
            empty = tf.nest.map_structure(no_rows, dataset.element_spec)
            dataset = dataset.concatenate(tf.data.Dataset.from_tensors(empty)).take(batches)
        return dataset.apply(tf.data.experimental.assert_cardinality(batches)).prefetch(2)

    def only_label(self, split: str) -> float | None:
        """The label that all rows of a split have whatever the seed; None where both can occur."""
        rate = self._twin.label_rate(split)
        return float(rate) if rate in (0, 1) else None

    def explain(self, error: BaseException) -> str:
        """As `RecordSource.explain`; there are no files of rows here that could be at fault."""
        return f"Generating synthetic rows failed: {first_line(error)}."

    def _signature(self) -> dict[str, tf.TensorSpec]:
        signature = {}
        for name, dtype in block.feature_types(self.schema).items():
            shape: list[int | None] = [None]
            if name == block.DENSE and self.schema.dense:
                shape.append(len(self.schema.dense))
            for column in self.schema.categorical:
                if name == column.name and (column.hotness or 1) > 1:
                    shape.append(column.hotness)
            signature[name] = tf.TensorSpec(shape, tf.as_dtype(dtype.type))
        return signature

    def _features_and_label(self, arrays: Features) -> tuple[Features, tf.Tensor]:
        features, label = block.features(self.schema, arrays)
        for name, column in features.items():
            if isinstance(column, tuple):
                features[name] = tf.RaggedTensor.from_row_lengths(*column)
        return features, label


def _rows_before(position: int, shard: Shard) -> int:
    """How many of the first `position` rows of all shards are this one's."""
    return max(0, -((shard.index - position) // shard.count))
