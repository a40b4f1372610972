"""Ids outside their table: an error that says where, or the out-of-vocabulary row.

The good path costs one comparison and one `reduce_all` for all features together; everything that
the message needs is computed in the branch that raises it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tf_dlrm.embeddings.bags import Bags
from tf_dlrm.embeddings.block import StackedFeature
from tf_dlrm.internals import raised_unless


def check_matrix(features: Sequence[StackedFeature], ids: tf.Tensor, axis: int = 0) -> tf.Tensor:
    """Returns the rows of the stack that the ids of one-hot features mean.

    Args:
        features: The features.
        ids: int32 or int64 tensor [features, batch] of rows of the features' tables; or
            [batch, features].
        axis: Where the features are in `ids`, 0 or 1.
    """

    def column(values: Sequence[int]) -> tf.Tensor:
        array = np.asarray(values, ids.dtype.as_numpy_dtype)
        return tf.constant(array if axis else array[:, np.newaxis])

    def place(position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        width = tf.shape(ids, tf.int64)[1]
        outer, inner = position // width, position % width
        feature, bag = (inner, outer) if axis else (outer, inner)
        return feature, bag, tf.constant(0, tf.int64)

    return _check(features, ids, column, place)


def check_pieces(
    features: Sequence[StackedFeature], bags: Sequence[Bags], dtype: tf.DType
) -> tf.Tensor:
    """Returns the rows of the stack that the ids of features of any form mean.

    Args:
        features: The features.
        bags: Their bags.
        dtype: int32 or int64, wide enough for the stack and for every id.

    Returns:
        Of this type [n]: the rows of the first feature, of the second, and so on.
    """
    ids = tf.concat([tf.cast(entry.ids, dtype) for entry in bags], 0)
    feature_of = tf.concat(
        [tf.fill(tf.shape(entry.ids), np.int32(k)) for k, entry in enumerate(bags)], 0
    )

    def per_id(values: Sequence[int]) -> tf.Tensor:
        return tf.gather(tf.constant(np.asarray(values, dtype.as_numpy_dtype)), feature_of)

    def place(position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        bag_of = tf.concat([entry.bag_indices() for entry in bags], 0)
        same = tf.equal(bag_of, bag_of[position]) & tf.equal(feature_of, feature_of[position])
        before = tf.math.count_nonzero(same[:position])
        return tf.cast(feature_of[position], tf.int64), tf.cast(bag_of[position], tf.int64), before

    return _check(features, ids, per_id, place)


def _check(
    features: Sequence[StackedFeature],
    ids: tf.Tensor,
    spread: Callable[[Sequence[int]], tf.Tensor],
    place: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor]],
) -> tf.Tensor:
    sizes = [f.table.vocabulary_size for f in features]
    # As unsigned numbers the negative ids are the largest, so one comparison catches both ends.
    unsigned = tf.uint32 if ids.dtype == tf.int32 else tf.uint64
    inside = tf.bitcast(ids, unsigned) < tf.bitcast(spread(sizes), unsigned)
    given = ids
    rows = [f.table.out_of_vocabulary for f in features]
    if any(row is not None for row in rows):
        ids = tf.where(inside, ids, spread([0 if row is None else row for row in rows]))
        inside = inside | tf.greater(spread([int(row is not None) for row in rows]), 0)
    if any(row is None for row in rows):

        def message() -> tf.Tensor:
            position = tf.argmin(tf.cast(tf.reshape(inside, [-1]), tf.int32))
            feature, bag, index = place(position)
            value = tf.reshape(given, [-1])[position]
            # No quotes: the assertion's message would show them with backslashes.
            return tf.strings.join(
                [
                    "Feature ",
                    tf.constant([f.name for f in features])[feature],
                    " has the id ",
                    tf.strings.as_string(value),
                    " at row ",
                    tf.strings.as_string(bag),
                    " of the batch, place ",
                    tf.strings.as_string(index),
                    " of its bag, but ids of table ",
                    tf.constant([f.table.name for f in features])[feature],
                    " must be in [0, ",
                    tf.strings.as_string(tf.constant(sizes, tf.int64)[feature]),
                    "). Set out_of_vocabulary of the table to send such ids to a row of it.",
                ]
            )

        with tf.control_dependencies([raised_unless(tf.reduce_all(inside), message)]):
            ids = tf.identity(ids)
    offsets = [f.offset for f in features]
    return ids + spread(offsets) if any(offsets) else ids
