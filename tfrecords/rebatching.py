"""Batches of one size from batches of any sizes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from tfrecords.tracing import traced_as_written


@traced_as_written
def rebatch(
    dataset: tf.data.Dataset, batch_size: int, rows: int, drop_remainder: bool
) -> tf.data.Dataset:
    """As `dataset.rebatch(batch_size, drop_remainder)`, which it uses.

    TensorFlow's own logs an error for each tensor of a batch that it puts together from two
    elements ("Tensor RefCount not reliable", TensorFlow 2.21): tens of thousands of lines an epoch.
    So elements are first cut and joined to multiples of the batch size.

    Args:
        dataset: Columns, tensors or ragged ones, of any structure and with equally many rows.
        batch_size: Rows in a batch.
        rows: Number of rows of the whole dataset.
        drop_remainder: Whether to leave out a last batch that is smaller.
    """
    spec = dataset.element_spec

    def cut(state: Any, columns: Any) -> tuple[Any, Any]:
        flat, left = state
        kept = tf.nest.pack_sequence_as(spec, flat, expand_composites=True)
        size = _rows(columns)
        have = _rows(kept) + size
        left -= size
        whole = tf.where(left > 0, have // batch_size * batch_size, have)

        def joined() -> Any:
            return tf.nest.map_structure(lambda *parts: tf.concat(parts, 0), kept, columns)

        # Most elements are handed on as they are: `order.ordered_batches` cuts them to fit.
        columns = tf.cond(have > size, joined, lambda: columns)
        begin = tf.nest.map_structure(lambda column: column[:whole], columns)
        end = tf.nest.map_structure(lambda column: column[whole:], columns)
        return (tuple(tf.nest.flatten(end, expand_composites=True)), left), begin

    # Flat, since a state cannot hold ragged tensors.
    nothing = tuple(tf.nest.flatten(tf.nest.map_structure(no_rows, spec), expand_composites=True))
    with _own_graph():
        dataset = dataset.scan((nothing, tf.constant(rows, tf.int64)), cut)
    return dataset.rebatch(batch_size, drop_remainder=drop_remainder)


@contextlib.contextmanager
def _own_graph() -> Iterator[None]:
    """Makes a graph the default one that goes away again, where TensorFlow runs eagerly.

    `scan` adds its function to the default graph, also where it needs none (TensorFlow 2.21): to
    that of the process, which keeps a megabyte of each dataset for good.
    """
    if not tf.executing_eagerly():
        yield
        return
    with tf.Graph().as_default(), tf.__internal__.eager_context.eager_mode():
        yield


def no_rows(spec: Any) -> Any:
    """An empty batch for the spec of a column."""
    if isinstance(spec, tf.RaggedTensorSpec):
        return tf.RaggedTensor.from_row_splits(
            tf.zeros([0], spec.dtype), tf.zeros([1], spec.row_splits_dtype)
        )
    return tf.zeros([0, *spec.shape[1:]], spec.dtype)


def _rows(columns: Any) -> tf.Tensor:
    column = tf.nest.flatten(columns)[0]
    if isinstance(column, tf.RaggedTensor):
        return column.nrows(tf.int64)
    return tf.shape(column, tf.int64)[0]
