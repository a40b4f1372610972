"""The optimizers of a TPU's embedding hardware: their configs, and its names of their slots."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from tf_dlrm.embeddings.block import ROWS
from tf_dlrm.embeddings.config import TableConfig
from tf_dlrm.embeddings.optimizers import (
    FTRL,
    SGD,
    Adagrad,
    Frozen,
    LazyAdam,
    Optimizer,
    RowWiseAdagrad,
)
from tf_dlrm.embeddings.schedules import LearningRateSchedule

# Half the distance of two neighbouring float32 numbers around 1: a smaller part is lost anyway.
_FLOAT32_ROUNDING = 2.0**-24
_PARAMETERS = "parameters"


def optimizer_config(optimizer: Optimizer, step: tf.Variable | None = None) -> Any:
    """Returns the `tf.tpu.experimental.embedding` optimizer that makes the same updates.

    Args:
        optimizer: The optimizer.
        step: The variable that counts the updates; needed for schedules and for `LazyAdam`.

    Raises:
        ValueError: If a TPU has no such optimizer, or `step` is missing.
    """
    if isinstance(optimizer, RowWiseAdagrad):
        raise ValueError("A TPU has no row-wise Adagrad; use Adagrad for the table instead.")
    if type(optimizer) not in _ON_TPU:
        raise ValueError(f"A TPU has no {type(optimizer).__name__}.")
    converted = _ON_TPU[type(optimizer)].convert(optimizer, step)
    # TensorFlow writes this flag into a number of a protocol buffer, where Protobuf 7 takes none.
    packing = "low_dimensional_packing_status"
    if hasattr(converted, packing):
        setattr(converted, packing, int(getattr(converted, packing)))
    return converted


def tpu_names(config: TableConfig) -> dict[str, str]:
    """Returns for "rows" and each slot of a table the name that the TPU's API has for it."""
    return {ROWS: _PARAMETERS, **_ON_TPU[type(config.optimizer)].slot_names}


def moves_without_gradient(optimizer: Optimizer) -> bool:
    """Returns whether a TPU moves a row that was looked up and has a gradient of 0."""
    return _ON_TPU[type(optimizer)].moves_without_gradient


def _rate(optimizer: Optimizer, step: tf.Variable | None) -> Any:
    schedule = optimizer.learning_rate
    if not isinstance(schedule, LearningRateSchedule):
        return schedule
    if step is None:
        raise ValueError(
            "The learning rate is a schedule, which on a TPU needs `step`, the variable that "
            "counts the updates."
        )
    return lambda: schedule(step)


def _sgd(optimizer: SGD | Frozen, step: tf.Variable | None) -> Any:
    return tf.tpu.experimental.embedding.SGD(learning_rate=_rate(optimizer, step))


def _adagrad(optimizer: Adagrad, step: tf.Variable | None) -> Any:
    """Refuses what would need an epsilon, which a TPU's Adagrad does not have."""
    first = optimizer.initial_accumulator
    if not first > 0:
        raise ValueError(
            "Adagrad on a TPU has no epsilon, so initial_accumulator must be above 0, but is "
            f"{first}."
        )
    # The least that the root can be is that of the first value.
    if optimizer.epsilon > _FLOAT32_ROUNDING * first**0.5:
        raise ValueError(
            f"Adagrad on a TPU has no epsilon, but epsilon is {optimizer.epsilon}, which beside"
            f" an accumulator of {first} is not negligible."
        )
    return tf.tpu.experimental.embedding.Adagrad(
        learning_rate=_rate(optimizer, step), initial_accumulator_value=first
    )


def _lazy_adam(optimizer: LazyAdam, step: tf.Variable | None) -> Any:
    """Leaves the correction for the first steps to the learning rate, as a TPU does."""
    if step is None:
        raise ValueError(
            "LazyAdam on a TPU needs `step`, the variable that counts the updates, for its "
            "correction of the first steps."
        )
    if not optimizer.epsilon > 0:
        raise ValueError("LazyAdam on a TPU needs an epsilon above 0, but it is 0.")
    return tf.tpu.experimental.embedding.Adam(
        learning_rate=lambda: optimizer.rate(tf.convert_to_tensor(step)),
        beta_1=optimizer.beta_1,
        beta_2=optimizer.beta_2,
        epsilon=optimizer.epsilon,
        lazy_adam=True,
        sum_inside_sqrt=False,
    )


def _ftrl(optimizer: FTRL, step: tf.Variable | None) -> Any:
    return tf.tpu.experimental.embedding.FTRL(
        learning_rate=_rate(optimizer, step),
        learning_rate_power=optimizer.learning_rate_power,
        l1_regularization_strength=optimizer.l1,
        l2_regularization_strength=optimizer.l2,
        beta=optimizer.beta,
        initial_accumulator_value=optimizer.initial_accumulator,
    )


class _OnTpu(NamedTuple):
    """How a TPU has an optimizer.

    Attributes:
        convert: Makes the config of `tf.tpu.experimental.embedding`.
        slot_names: What that calls the slots.
        moves_without_gradient: Whether a gradient of 0 moves the row.
    """

    convert: Callable[[Any, tf.Variable | None], Any]
    slot_names: Mapping[str, str]
    moves_without_gradient: bool = False


_ON_TPU: Mapping[type[Optimizer], _OnTpu] = {
    SGD: _OnTpu(_sgd, {}),
    Frozen: _OnTpu(_sgd, {}),
    Adagrad: _OnTpu(_adagrad, {"accumulator": "accumulators"}),
    LazyAdam: _OnTpu(_lazy_adam, {"m": "momenta", "v": "velocities"}, True),
    # Its row is a closed form of the slots, which is 0 where no gradient was summed up yet.
    FTRL: _OnTpu(_ftrl, {"accumulator": "accumulators", "linear": "linears"}, True),
}
