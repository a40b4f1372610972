"""The share of each replica of a batch."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tf_dlrm.embeddings.stores.choose import replicas_here
from tfrecords.tracing import traced_as_written


@traced_as_written
def distribute(strategy: tf.distribute.Strategy, batches: tf.data.Dataset) -> Any:
    """Gives each replica its share of every batch.

    Returns:
        An iterable whose elements hold, for replica `k` of `n`, the rows `k`, `k + n`, ... of a
        batch. Shares differ by one row where a batch does not divide, and may be empty.
    """
    count = strategy.num_replicas_in_sync
    if count == 1:
        return batches
    here = replicas_here(strategy)

    def share(replica: Any, batch: Any) -> Any:
        return tf.nest.map_structure(lambda column: column[replica::count], batch)

    if len(here) == 1:
        # Every process cuts its share out of the same batches. TensorFlow's distributed data set
        # would ask all processes before every batch whether they have one.
        own = batches.map(lambda *batch: share(here[0], batch), tf.data.AUTOTUNE)
        return own.prefetch(tf.data.AUTOTUNE)

    def shares(*batch: Any) -> tf.data.Dataset:
        numbers = tf.data.Dataset.range(here.start, here.stop)
        return numbers.map(lambda replica: share(replica, batch))

    return strategy.distribute_datasets_from_function(lambda context: batches.flat_map(shares))
