"""The native kernel of the dot products of pairs, as a function of tensors."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tf_dlrm.embeddings.kernels.choice import are_allowed, load

# Where the sources are.
FOLDER = pathlib.Path(__file__).parent


def are_used(training: bool | None, dtype: str) -> bool:
    """Returns whether a layer that is called so, and computes in a type, goes through the kernels.

    Raises:
        ValueError: See `choice.load`.
    """
    if not are_allowed(training) or dtype != "float32":
        return False
    # Where a layer will run is not known while it is traced.
    if any(device.device_type != "CPU" for device in tf.config.list_logical_devices()):
        return False
    return load(FOLDER) is not None


def dot_products(vectors: Sequence[tf.Tensor], diagonal: bool) -> tf.Tensor:
    """Returns the dot products of all pairs, the lower triangle row by row, [batch, pairs].

    Args:
        vectors: float32 [batch, dim], all of one shape.
        diagonal: Whether each vector's product with itself is among them.

    Raises:
        tf.errors.InvalidArgumentError: When it runs, if the shapes differ.
    """
    operations = load(FOLDER)
    count = len(vectors)

    @tf.custom_gradient
    def run(*vectors: tf.Tensor) -> tuple[tf.Tensor, Any]:
        products = operations.tf_dlrm_products(vectors, diagonal=diagonal)
        pairs = count * (count + 1) // 2 if diagonal else count * (count - 1) // 2
        products.set_shape([vectors[0].shape[0], pairs])

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
            pulled = operations.tf_dlrm_pull(upstream, vectors, diagonal=diagonal)
            for tensor, vector in zip(pulled, vectors, strict=True):
                tensor.set_shape(vector.shape)
            return tuple(pulled)

        return products, gradient

    return run(*vectors)
