"""Our half of the step benchmarks: the compiled training step of `criteo_kaggle.flags`.

Imports TensorFlow; callers first choose Keras 2 (`TF_USE_LEGACY_KERAS=1`), as the entry points do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from benchmarks.step_rows import ALPHA, DENSE_FEATURES, TABLE_ROWS, random_rows
from tf_dlrm.training.build import build_dense_optimizer, build_model
from tf_dlrm.training.distribution.shares import distribute
from tf_dlrm.training.options.config import ModelOptions, OptimizerOptions
from tf_dlrm.training.steps import make_training_steps
from tfrecords.schema import CategoricalColumn, Schema

__all__ = ["ALPHA", "NAMES", "batches", "build", "schema"]

NAMES = tuple(f"C{k + 1}" for k in range(len(TABLE_ROWS)))


def schema() -> Schema:
    """Returns Criteo Kaggle's columns."""
    return Schema(
        dense=tuple(f"I{k + 1}" for k in range(DENSE_FEATURES)),
        categorical=tuple(map(CategoricalColumn, NAMES, TABLE_ROWS)),
    )


def build(strategy: tf.distribute.Strategy | None = None) -> tuple[Any, Any]:
    """Returns the model, all its tables made, and its compiled training steps.

    Args:
        strategy: Over whose replicas large tables are cut by rows; None for one device.
    """
    options = OptimizerOptions()
    strategy = strategy or tf.distribute.get_strategy()
    with strategy.scope():
        model = build_model(ModelOptions(), options, schema(), seed=0)
        optimizer = build_dense_optimizer(options, model)
    return model, make_training_steps(model, optimizer, strategy)


def batches(batch_size: int, strategy: tf.distribute.Strategy | None = None) -> Iterator[Any]:
    """Returns an endless iterator over batches, of all replicas, that are ready in memory."""
    dense, ids, labels = random_rows(batch_size)
    features = {"dense": dense} | dict(zip(NAMES, ids, strict=True))
    rows = tf.data.Dataset.from_tensor_slices((features, labels)).batch(batch_size)
    endless = rows.cache().repeat().prefetch(2)
    return iter(distribute(strategy, endless) if strategy else endless)
