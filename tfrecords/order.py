"""Batches of rows in the order of an epoch: the part of reading that all sources share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfrecords.epoch import EpochOrder, Windows
from tfrecords.errors import DataError
from tfrecords.rebatching import no_rows, rebatch
from tfrecords.tracing import traced_as_written

Features = dict[str, tf.Tensor]
Rows = tuple[Features, tf.Tensor]
Fetch = Callable[[np.ndarray], tf.data.Dataset]
Load = Callable[[Any, tf.Tensor], Rows]

# Rows that are gathered at a time: few enough for the result to stay in a processor's cache while
# it is transposed, many enough that the cost of starting some thirty operations does not count.
_CHUNK_ROWS = 16_384

_LABEL = ""  # no column has this name
_PACKED = {tf.float32: tf.int32}


@traced_as_written
def ordered_batches(
    order: EpochOrder, fetch: Fetch, load: Load, batch_size: int, drop_remainder: bool
) -> tf.data.Dataset:
    """Batches of the rows of one shard in the order of an epoch.

    Args:
        order: The order.
        fetch: Takes indices of blocks, int64, and returns a dataset with one element per block, in
            that order.
        load: Takes the elements of one window (batched, in order) and the number of rows that
            they must hold (int64 scalar), and returns the features and labels of these rows.
        batch_size: Rows in a batch.
        drop_remainder: Whether to leave out the last step, in which batches are smaller.

    Returns:
        A dataset of (features, label), of known cardinality, which is the same for every shard. A
        shard for which the last step has no row yields a batch of no rows there.

    Raises:
        DataError: If `batch_size` is below 1.
    """
    if batch_size < 1:
        raise DataError(f"batch_size must be at least 1, not {batch_size}.")
    if all(part.in_order for part in order.parts):
        dataset = _windows(order, fetch, load, None)
    else:
        packing = _Packing()
        chunk_rows = -(-_CHUNK_ROWS // batch_size) * batch_size
        dataset = _windows(order, fetch, load, packing).flat_map(
            lambda packed, positions, before: _chunks(packed, positions, before, chunk_rows)
        )
        dataset = dataset.map(packing.gather, num_parallel_calls=2, deterministic=True)
    dataset = rebatch(dataset, batch_size, order.rows, drop_remainder)
    own = order.rows // batch_size if drop_remainder else -(-order.rows // batch_size)
    batches = order.batches(batch_size, drop_remainder)
    if own > batches:
        dataset = dataset.take(batches)
    elif own < batches:
        empty = tf.nest.map_structure(no_rows, dataset.element_spec)
        dataset = dataset.concatenate(tf.data.Dataset.from_tensors(empty))
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(batches)).prefetch(2)
    options = tf.data.Options()
    options.deterministic = True
    return dataset.with_options(options)


def _windows(
    order: EpochOrder, fetch: Fetch, load: Load, packing: _Packing | None
) -> tf.data.Dataset:
    """The rows of each window as they are, or (rows packed, positions to yield, rows before)."""
    dataset = _part(order.parts[0], 0, fetch, load, packing)
    yielded = order.parts[0].rows_to_yield
    for part in order.parts[1:]:
        dataset = dataset.concatenate(_part(part, yielded, fetch, load, packing))
        yielded += part.rows_to_yield
    return dataset


def _part(
    part: Windows, yielded: int, fetch: Fetch, load: Load, packing: _Packing | None
) -> tf.data.Dataset:
    def window(elements: Any, plan: tuple[tf.Tensor, ...]) -> Any:
        rows, first, seed, offsets, before = plan
        columns = load(elements, rows)
        if packing is None:
            return tf.nest.map_structure(lambda column: column[first:], columns)
        return packing.pack(columns), _positions(part, rows, first, seed, offsets), before

    # A file that lost its end after it was opened yields fewer records: that must stop the run,
    # not shorten the epoch.
    blocks = fetch(part.blocks).apply(tf.data.experimental.assert_cardinality(len(part.blocks)))
    before = yielded + np.cumsum(part.yields) - part.yields
    plans = tf.data.Dataset.from_tensor_slices(
        (part.rows, part.first, part.seeds, part.offsets, before)
    )
    dataset = tf.data.Dataset.zip((blocks.batch(part.per_window), plans))
    # One window is fetched and two are worked on while the batches of another are handed out.
    return dataset.prefetch(1).map(window, num_parallel_calls=2, deterministic=True)


def _positions(
    part: Windows, rows: tf.Tensor, first: tf.Tensor, seed: tf.Tensor, offsets: tf.Tensor
) -> tf.Tensor:
    """Which of the loaded rows of a window are to be yielded, in order, int32."""
    lane_rows = tf.cast(rows, tf.int32) // part.lanes
    positions = tf.range(lane_rows)
    if part.shuffled:
        positions = tf.random.experimental.stateless_shuffle(positions, seed, alg="philox")
    if part.dealt:
        # One shuffle for all lanes, which begins elsewhere in each: `[lane_rows, lanes]`.
        turned = (tf.range(lane_rows)[:, None] + tf.cast(offsets, tf.int32)) % lane_rows
        starts = tf.range(part.lanes) * lane_rows
        positions = tf.reshape(tf.gather(positions, turned) + starts, [-1])
    return positions[first :: part.stride]


def _chunks(
    packed: Any, positions: tf.Tensor, before: tf.Tensor, chunk_rows: int
) -> tf.data.Dataset:
    """Cuts the positions of a window; the rows go along, by reference.

    Cuts are at multiples of `chunk_rows` counted over all windows, of which `before` rows came
    earlier, so that batches lie within a chunk wherever they lie within a window.
    """
    end = before + tf.size(positions, tf.int64)

    def chunk(number: tf.Tensor) -> Any:
        start = tf.maximum(number * chunk_rows, before) - before
        return packed, positions[start : (number + 1) * chunk_rows - before]

    return tf.data.Dataset.range(before // chunk_rows, -(-end // chunk_rows)).map(chunk)


class _Packing:
    """Columns of one number a row, side by side as the rows of a matrix per type.

    tf.gather costs about the same for a number as for a row of 26 numbers.
    """

    def __init__(self) -> None:
        self._features: list[str] = []
        self._names: dict[str, list[str]] = {}
        self._types: dict[str, tf.DType] = {}

    def pack(self, columns: Rows) -> Any:
        features, label = columns
        vectors: dict[str, dict[str, tf.Tensor]] = {}
        others = {}
        for name, column in [*features.items(), (_LABEL, label)]:
            if isinstance(column, tf.Tensor) and column.shape.rank == 1:
                # Numbers of one width go together; a float keeps its bits.
                packed = tf.bitcast(column, _PACKED.get(column.dtype, column.dtype))
                vectors.setdefault(packed.dtype.name, {})[name] = packed
                self._types[name] = column.dtype
            else:
                others[name] = column
        self._features = list(features)
        self._names = {dtype: list(packed) for dtype, packed in vectors.items()}
        matrices = {
            dtype: tf.transpose(tf.stack(list(packed.values())))
            for dtype, packed in vectors.items()
        }
        return matrices, others

    def gather(self, rows: Any, positions: tf.Tensor) -> Rows:
        """The rows at `positions`, as columns again."""
        matrices, others = rows
        found = {name: tf.gather(column, positions) for name, column in others.items()}
        for dtype, matrix in matrices.items():
            names = self._names[dtype]
            columns = tf.unstack(tf.transpose(tf.gather(matrix, positions)), num=len(names))
            for name, column in zip(names, columns, strict=True):
                found[name] = tf.bitcast(column, self._types[name])
        label = found.pop(_LABEL)
        return {name: found[name] for name in self._features}, label
