"""One update of whole small tables, in plain arithmetic that XLA can compile.

The same updates as those of `tf_dlrm.embeddings.optimizers`, which gather and scatter rows with
operations that XLA does not have.
"""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from tf_dlrm.embeddings.optimizers import (
    FTRL,
    SGD,
    Adagrad,
    Frozen,
    LazyAdam,
    Optimizer,
    RowWiseAdagrad,
)
from tf_dlrm.embeddings.tables import ROWS
from tf_dlrm.tpu.config import adam_rate


def dense_update(
    optimizer: Optimizer,
    values: Mapping[str, tf.Tensor],
    gradient: tf.Tensor,
    touched: tf.Tensor,
    step: tf.Tensor,
) -> dict[str, tf.Tensor]:
    """Returns the rows and slots after one update.

    Args:
        optimizer: The optimizer.
        values: "rows" [rows, dim] and each slot, [rows, dim] or [rows] where row-wise.
        gradient: float32 [rows, dim], summed over equal ids.
        touched: bool [rows]; all other rows stay as they are, their slots too.
        step: Scalar integer, the number of updates made before this one.

    Raises:
        ValueError: If there is no dense form of the optimizer.
    """
    updated = _update(optimizer, values, gradient, step)
    return {
        key: tf.where(touched if new.shape.rank == 1 else touched[:, tf.newaxis], new, values[key])
        for key, new in updated.items()
    }


def _update(
    optimizer: Optimizer, values: Mapping[str, tf.Tensor], g: tf.Tensor, step: tf.Tensor
) -> dict[str, tf.Tensor]:
    if isinstance(optimizer, Frozen):
        return {}
    rows = values[ROWS]
    rate = optimizer.rate(step)
    if isinstance(optimizer, SGD):
        return {ROWS: rows - rate * g}
    if isinstance(optimizer, Adagrad):
        total = values["accumulator"] + tf.square(g)
        return {ROWS: rows - rate * g / (tf.sqrt(total) + optimizer.epsilon), "accumulator": total}
    if isinstance(optimizer, RowWiseAdagrad):
        total = values["accumulator"] + tf.reduce_mean(tf.square(g), 1)
        factor = rate / (tf.sqrt(total) + optimizer.epsilon)
        return {ROWS: rows - factor[:, tf.newaxis] * g, "accumulator": total}
    if isinstance(optimizer, LazyAdam):
        m = optimizer.beta_1 * values["m"] + (1.0 - optimizer.beta_1) * g
        v = optimizer.beta_2 * values["v"] + (1.0 - optimizer.beta_2) * tf.square(g)
        change = adam_rate(optimizer, step) * m / (tf.sqrt(v) + optimizer.epsilon)
        return {ROWS: rows - change, "m": m, "v": v}
    if isinstance(optimizer, FTRL):
        return _ftrl(optimizer, values, g, rate)
    raise ValueError(f"There is no dense update for {type(optimizer).__name__}.")


def _ftrl(
    optimizer: FTRL, values: Mapping[str, tf.Tensor], g: tf.Tensor, rate: tf.Tensor
) -> dict[str, tf.Tensor]:
    total = values["accumulator"] + tf.square(g)
    before = values["accumulator"] ** -optimizer.learning_rate_power
    after = total**-optimizer.learning_rate_power
    linear = values["linear"] + g - (after - before) / rate * values[ROWS]
    denominator = (after + optimizer.beta) / rate + 2.0 * optimizer.l2
    rows = tf.where(
        tf.abs(linear) > optimizer.l1,
        (tf.sign(linear) * optimizer.l1 - linear) / denominator,
        tf.zeros_like(linear),
    )
    return {ROWS: rows, "accumulator": total, "linear": linear}
