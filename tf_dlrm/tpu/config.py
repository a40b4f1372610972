"""Tables and features as `tf.tpu.experimental.embedding` and TFRS know them.

`feature_configs` gives what `tf.tpu.experimental.embedding.TPUEmbedding` and
`tensorflow_recommenders.layers.embedding.TPUEmbedding` take as `feature_config`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf_dlrm.embeddings.config import FeatureConfig, TableConfig, tables_of
from tf_dlrm.embeddings.initializers import CHUNK_ROWS
from tf_dlrm.embeddings.optimizers import Optimizer
from tf_dlrm.tpu.optimizers import optimizer_config


def feature_configs(
    features: Sequence[FeatureConfig],
    seed: int = 0,
    step: tf.Variable | None = None,
    replica_batch_size: int | None = None,
    sparse_cores: int = 0,
) -> dict[str, Any]:
    """Returns `{feature: tf.tpu.experimental.embedding.FeatureConfig}`.

    Features that share a table share one `TableConfig`, and tables of equal optimizers one
    optimizer: a TPU slows down with every other one, and stacks only tables that share it.

    Args:
        features: The features and their tables.
        seed: Seed of the tables' first values, which are those of every other placement.
        step: The variable that counts the updates; needed for schedules and for `LazyAdam`.
        replica_batch_size: Rows of a replica's batch where the output's shape must be known
            beforehand, which it must on a TPU.
        sparse_cores: Number of SparseCores of all chips, where rows are dealt out to them in turn;
            0 for anything else, where each host or device has consecutive rows.

    Raises:
        ValueError: If features contradict each other, or a TPU has no such optimizer.
    """
    optimizers: dict[Optimizer, Any] = {}
    tables = {}
    for table in tables_of(features):
        if table.optimizer not in optimizers:
            try:
                optimizers[table.optimizer] = optimizer_config(table.optimizer, step)
            except ValueError as error:
                raise ValueError(
                    f"Table '{table.name}' cannot be on a TPU's embedding hardware: {error}"
                ) from error
        tables[table.name] = table_config(table, optimizers[table.optimizer], seed, sparse_cores)
    return {
        feature.name: tf.tpu.experimental.embedding.FeatureConfig(
            table=tables[feature.table.name],
            name=feature.name,
            output_shape=None if replica_batch_size is None else [replica_batch_size],
        )
        for feature in features
    }


def table_config(table: TableConfig, optimizer: Any, seed: int = 0, sparse_cores: int = 0) -> Any:
    """Returns the `tf.tpu.experimental.embedding.TableConfig` of a table.

    Args:
        table: The table.
        optimizer: A `tf.tpu.experimental.embedding` optimizer, or None where nothing is trained.
        seed: Seed of the first values.
        sparse_cores: See `feature_configs`.
    """
    return tf.tpu.experimental.embedding.TableConfig(
        vocabulary_size=table.vocabulary_size,
        dim=table.dim,
        initializer=_initializer(table, seed, sparse_cores),
        optimizer=optimizer,
        combiner=table.combiner,
        name=table.name,
    )


def _initializer(table: TableConfig, seed: int, sparse_cores: int) -> Callable[..., tf.Tensor]:
    """Returns an initializer that knows which rows of the table a shard has."""

    def initialize(
        shape: Any, dtype: tf.DType = tf.float32, shard_info: Any = None, **_: Any
    ) -> tf.Tensor:
        rows, columns = (int(size) for size in (shape if shard_info is None else shard_info.shape))
        first = 0 if shard_info is None else int(shard_info.offset[0])
        if shard_info is None or not sparse_cores:
            values = _padded_rows(table, seed, first, rows)
        else:
            values = _dealt_rows(table, seed, first, rows, int(shape[0]), sparse_cores)
        return tf.cast(tf.pad(values, [[0, 0], [0, columns - table.dim]]), dtype)

    return initialize


def _padded_rows(table: TableConfig, seed: int, first: int, count: int) -> tf.Tensor:
    """Returns consecutive first values [count, dim], zeros after the last row of the table."""
    there = min(count, max(table.vocabulary_size - first, 0))
    return tf.pad(table.initial_rows(seed, first, there), [[0, count - there], [0, 0]])


def _dealt_rows(
    table: TableConfig, seed: int, first: int, count: int, padded_rows: int, sparse_cores: int
) -> tf.Tensor:
    """Returns first values [count, dim] of consecutive places where rows are dealt out to cores.

    The table is laid out core by core: core c has the rows c, c + cores, c + 2 cores, ...
    Rows after the last one of the table are zeros.
    """
    place: np.ndarray = (first + np.arange(count)) % padded_rows
    per_core = padded_rows // sparse_cores
    row = place // per_core + sparse_cores * (place % per_core)
    values = [tf.zeros((0, table.dim))]
    targets: list[np.ndarray] = [np.zeros(0, np.int64)]
    # Chunk by chunk, so that no more than one is in memory beside the shard.
    for start in range(0, table.vocabulary_size, CHUNK_ROWS):
        size = min(CHUNK_ROWS, table.vocabulary_size - start)
        wanted = np.flatnonzero((row >= start) & (row < start + size))
        if wanted.size:
            values.append(tf.gather(table.initial_rows(seed, start, size), row[wanted] - start))
            targets.append(wanted)
    indices = np.concatenate(targets)[:, np.newaxis]
    return tf.scatter_nd(indices, tf.concat(values, 0), [count, table.dim])
