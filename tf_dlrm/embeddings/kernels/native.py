"""The native kernels as functions of tensors, and the choice between them and TensorFlow's ops."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tf_dlrm.embeddings.kernels.build import BuildError, library
from tf_dlrm.embeddings.optimizers import (
    FTRL,
    SGD,
    Adagrad,
    LazyAdam,
    Optimizer,
    RowWiseAdagrad,
    adam_correction,
)

_LOG = logging.getLogger(__name__)

KERNELS = ("auto", "native", "tensorflow")
_OPTIMIZERS = (SGD, Adagrad, RowWiseAdagrad, LazyAdam, FTRL)
_plain: contextvars.ContextVar[bool] = contextvars.ContextVar("plain_tensorflow", default=False)


@contextlib.contextmanager
def plain_tensorflow() -> Iterator[None]:
    """What is traced within uses TensorFlow's own operations only, and so runs anywhere."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def are_used(optimizer: Optimizer, device: str) -> bool:
    """Returns whether lookups and updates of tables on a device go through the kernels.

    The environment variable TF_DLRM_KERNELS says which are wanted: "auto", the default, takes the
    kernels where they can be compiled; "native" fails where they cannot; "tensorflow" does without.

    Raises:
        ValueError: If TF_DLRM_KERNELS is another text, or is "native" and they cannot be compiled.
    """
    wish = os.environ.get("TF_DLRM_KERNELS") or "auto"
    if wish not in KERNELS:
        raise ValueError(f"TF_DLRM_KERNELS must be one of {KERNELS}, but is {wish!r}.")
    if _plain.get() or wish == "tensorflow" or type(optimizer) not in _OPTIMIZERS:
        return False
    if tf.DeviceSpec.from_string(device).device_type not in (None, "CPU"):
        return False
    loaded, reason = _load()
    if loaded is None and wish == "native":
        raise ValueError(f"TF_DLRM_KERNELS is 'native', but {reason}.")
    return loaded is not None


def pool(
    table: tf.Variable,
    ids: tf.Tensor,
    bags: tf.Tensor,
    weights: tf.Tensor | None,
    bag_count: tf.Tensor,
) -> tf.Tensor:
    """Returns the sums of the rows of each bag, float32 [bag_count, dim].

    Args:
        table: Resource variable [rows, dim].
        ids: int32 or int64 [n], rows of the table, all in range.
        bags: int32 [n], the bag of each id, ascending.
        weights: float32 [n], or None for ones.
        bag_count: int32 scalar, number of bags.
    """
    vectors = _ops().tf_dlrm_pool(
        table=table.handle,
        ids=ids,
        bags=bags,
        weights=tf.zeros([0]) if weights is None else weights,
        bag_count=bag_count,
    )
    return tf.ensure_shape(vectors, [None, table.shape[1]])


def update(
    optimizer: Optimizer,
    table: tf.Variable,
    slots: Mapping[str, tf.Variable],
    ids: tf.Tensor,
    bags: tf.Tensor,
    weights: tf.Tensor | None,
    gradients: tf.Tensor,
    step: tf.Tensor,
) -> None:
    """Updates each row once by the summed gradients of its bags.

    Args:
        optimizer: The optimizer of the table.
        table: Resource variable [rows, dim].
        slots: By name, those of the optimizer.
        ids: int32 or int64 [n], rows of the table, all in range.
        bags: int32 [n], the bag of each id.
        weights: float32 [n], or None for ones.
        gradients: float32 [bags, dim], the gradients of the sums of `pool`.
        step: Scalar int64, the number of updates made before this one.
    """
    _ops().tf_dlrm_update(
        table=table.handle,
        slots=[slots[spec.name].handle for spec in optimizer.slots],
        ids=ids,
        bags=bags,
        weights=tf.zeros([0]) if weights is None else weights,
        gradients=gradients,
        numbers=tf.stack(_numbers(optimizer, step)),
        kind=type(optimizer).__name__,
    )


def _numbers(optimizer: Optimizer, step: tf.Tensor) -> Sequence[Any]:
    """Returns rate, epsilon, beta_1, beta_2, power, l1, l2 and beta; 0 where there is none."""
    rate = optimizer.rate(step)
    names = ("epsilon", "beta_1", "beta_2", "learning_rate_power", "l1", "l2", "beta")
    numbers = [tf.constant(getattr(optimizer, name, 0.0), tf.float32) for name in names]
    numbers[3] = -numbers[3]
    if isinstance(optimizer, LazyAdam):
        rate *= adam_correction(optimizer, step)
    return [rate, *numbers]


def _ops() -> Any:
    loaded, reason = _load()
    if loaded is None:
        raise RuntimeError(f"There are no native kernels: {reason}.")
    return loaded


@functools.cache
def _load() -> tuple[Any, str]:
    """Returns TensorFlow's module of the operations, or None and why there is none."""
    try:
        return tf.load_op_library(library()), ""
    except (BuildError, tf.errors.OpError, OSError) as error:
        _LOG.warning("tables use TensorFlow's own operations, which are slower: %s", error)
        return None, str(error)
