"""The native kernel of the dot products of pairs, as a function of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tf_dlrm.kernels.use import are_allowed, load


def are_used(training: bool | None, dtype: str) -> bool:
    """Returns whether a layer that is called so, and computes in a type, goes through the kernels.

    Raises:
        ValueError: See `use.load`.
    """
    if not are_allowed(training) or dtype != "float32":
        return False
    # Where a layer will run is not known while it is traced.
    if any(device.device_type != "CPU" for device in tf.config.list_logical_devices()):
        return False
    return load() is not None


def dot_products(
    vectors: Sequence[tf.Tensor], diagonal: bool, after_first: bool = False
) -> tf.Tensor:
    """Returns the dot products of all pairs, the lower triangle row by row, [batch, pairs].

    Args:
        vectors: float32 [batch, dim], all of one shape.
        diagonal: Whether each vector's product with itself is among them.
        after_first: Whether the first vector is put before them, [batch, dim + pairs].

    Raises:
        tf.errors.InvalidArgumentError: When it runs, if the shapes differ.
    """
    operations = load()
    attributes = {"diagonal": diagonal, "after_first": after_first}

    @tf.custom_gradient
    def run(*vectors: tf.Tensor) -> tuple[tf.Tensor, Any]:
        products = operations.tf_dlrm_products(vectors, **attributes)

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
            return tuple(operations.tf_dlrm_pull(upstream, vectors, **attributes))

        return products, gradient

    return run(*vectors)
