"""The order of the rows of an epoch, as a function of (seed, epoch, position).

The unit is the block (one record). Without a seed, blocks come in file order. With a seed, the
blocks are permuted, consecutive blocks of the permutation form windows, and the rows are shuffled
within each window. A window's shuffle depends on (seed, epoch, window) alone, so reading can begin
at any row without having read the ones before it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfrecords.errors import DataError
from tfrecords.hashing import hash_numbers

SHUFFLE_WINDOW_ROWS = 262_144
_FILE_ORDER_WINDOW_ROWS = 65_536

Features = dict[str, tf.Tensor]


@dataclasses.dataclass(frozen=True)
class EpochOrder:
    """What is to be read of an epoch, from the first window on that has rows to yield.

    Attributes:
        blocks: Indices of the blocks, in the order of reading, int64.
        window_blocks: Blocks in a window; the last window may have fewer.
        window_rows: Rows in each window, int64 `[windows]`.
        window_skips: Rows of each window that are not to be yielded, at its beginning.
        window_seeds: Seed of each window's shuffle, int64 `[windows, 2]`.
        shuffled: Whether rows are shuffled within the window.
    """

    blocks: np.ndarray
    window_blocks: int
    window_rows: np.ndarray
    window_skips: np.ndarray
    window_seeds: np.ndarray
    shuffled: bool

    @property
    def rows(self) -> int:
        """Number of rows that are left to yield."""
        return int(self.window_rows.sum() - self.window_skips.sum())


def epoch_order(
    block_rows: np.ndarray,
    *,
    shuffle_seed: int | None,
    epoch: int,
    first_row: int,
    shuffle_window_rows: int,
) -> EpochOrder:
    """Works out the order of an epoch.

    Args:
        block_rows: Rows of each block, int64 `[blocks]`.
        shuffle_seed: None for file order.
        epoch: Number of the epoch; another epoch has another order.
        first_row: Position in the epoch's order at which to begin, in `[0, rows]`.
        shuffle_window_rows: About how many rows are shuffled together.

    Raises:
        DataError: If `first_row` or `epoch` is out of range.
    """
    total = int(block_rows.sum())
    if not 0 <= first_row <= total:
        raise DataError(
            f"first_row must lie between 0 and the number of rows, {total}, not {first_row}."
        )
    if epoch < 0:
        raise DataError(f"epoch must be at least 0, not {epoch}.")
    blocks: np.ndarray = np.arange(len(block_rows), dtype=np.int64)
    window_rows = _FILE_ORDER_WINDOW_ROWS
    if shuffle_seed is not None:
        blocks = np.argsort(hash_numbers(shuffle_seed, epoch, blocks), kind="stable")
        window_rows = shuffle_window_rows
    largest = int(block_rows.max(initial=1))
    per_window = max(1, round(window_rows / largest))
    starts = np.arange(0, len(blocks), per_window)
    rows = np.add.reduceat(block_rows[blocks], starts) if len(blocks) else block_rows
    windows: np.ndarray = np.arange(len(starts), dtype=np.int64)
    seeds: np.ndarray = np.zeros((len(windows), 2), np.int64)
    if shuffle_seed is not None:
        for part in range(2):
            hashed = hash_numbers(shuffle_seed, epoch, windows, part + 1)
            seeds[:, part] = (hashed >> np.uint64(1)).astype(np.int64)
    ends = np.cumsum(rows)
    first = int(np.searchsorted(ends, first_row, side="right"))
    skips: np.ndarray = np.zeros(len(windows), np.int64)
    if first < len(windows):
        skips[first] = first_row - (ends[first] - rows[first])
    return EpochOrder(
        blocks=blocks[first * per_window :],
        window_blocks=per_window,
        window_rows=rows[first:],
        window_skips=skips[first:],
        window_seeds=seeds[first:],
        shuffled=shuffle_seed is not None,
    )


def ordered_batches(
    order: EpochOrder,
    fetch: Callable[[np.ndarray], tf.data.Dataset],
    load: Callable[[tf.Tensor, tf.Tensor], tuple[Features, tf.Tensor]],
    batch_size: int,
    drop_remainder: bool,
) -> tf.data.Dataset:
    """Batches of rows in the order of an epoch; what every source shares.

    Args:
        order: The order.
        fetch: Takes indices of blocks and returns a dataset with one element per block, in that
            order.
        load: Takes the elements of one window (batched, in order) and the number of rows that
            they must hold (int64 scalar), and returns the features and labels of these rows.
        batch_size: Rows in a batch.
        drop_remainder: Whether to leave out a last batch that is smaller.

    Returns:
        A dataset of (features, label), of known cardinality.

    Raises:
        DataError: If `batch_size` is below 1.
    """
    if batch_size < 1:
        raise DataError(f"batch_size must be at least 1, not {batch_size}.")

    def window(
        elements: tf.Tensor, rows: tf.Tensor, skip: tf.Tensor, seed: tf.Tensor
    ) -> tuple[Features, tf.Tensor]:
        columns = load(elements, rows)
        if order.shuffled:
            positions = tf.random.experimental.stateless_shuffle(
                tf.range(tf.cast(rows, tf.int32)), seed, alg="philox"
            )[skip:]
            return _gather(columns, positions)
        return tf.nest.map_structure(lambda column: column[skip:], columns)

    # A file that lost its end after it was opened yields fewer records: that must stop the run,
    # not shorten the epoch.
    blocks = fetch(order.blocks).apply(tf.data.experimental.assert_cardinality(len(order.blocks)))
    windows = tf.data.Dataset.from_tensor_slices(
        (order.window_rows, order.window_skips, order.window_seeds)
    )
    dataset = tf.data.Dataset.zip((blocks.batch(order.window_blocks), windows))
    # One window is fetched and two are worked on while the batches of another are handed out.
    dataset = dataset.prefetch(1).map(
        lambda elements, plan: window(elements, *plan), num_parallel_calls=2, deterministic=True
    )
    dataset = dataset.rebatch(batch_size, drop_remainder=drop_remainder)
    batches = order.rows // batch_size if drop_remainder else -(-order.rows // batch_size)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(batches)).prefetch(2)
    options = tf.data.Options()
    options.deterministic = True
    return dataset.with_options(options)


def _gather(
    columns: tuple[Features, tf.Tensor], positions: tf.Tensor
) -> tuple[Features, tf.Tensor]:
    """The rows at `positions` of all columns."""
    features, label = columns
    gathered = {
        name: tf.gather(column, positions)
        for name, column in features.items()
        if not _is_vector(column)
    }
    # tf.gather costs about the same for a number as for a row of 26 numbers, so columns of one
    # number a row are gathered together: 60 against 155 ns for Criteo's 26, both transpositions
    # included.
    for dtype in (tf.int32, tf.int64):
        names = [n for n, c in features.items() if _is_vector(c) and c.dtype == dtype]
        if names:
            stacked = tf.stack([features[name] for name in names])
            matrix = tf.transpose(tf.gather(tf.transpose(stacked), positions))
            gathered.update(zip(names, tf.unstack(matrix, num=len(names)), strict=True))
    return {name: gathered[name] for name in features}, tf.gather(label, positions)


def _is_vector(column: tf.Tensor) -> bool:
    return isinstance(column, tf.Tensor) and column.shape.rank == 1
