"""DotInteraction: the dot products of all pairs of feature vectors."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tf_dlrm.embeddings.restack import restack
from tf_dlrm.internals import tapes_that_record
from tf_dlrm.keras_api import keras
from tf_dlrm.kernels import pairs
from tfrecords.tracing import traced_as_written


@keras.saving.register_keras_serializable(package="tf_dlrm")
class DotInteraction(keras.layers.Layer):
    """Dot products of all pairs of vectors: the strict lower triangle, row by row.

    For vectors v_0, v_1, ... the output is v_1.v_0, v_2.v_0, v_2.v_1, v_3.v_0 and so on.

    Args:
        self_interaction: Whether to include each vector's product with itself, at the end of its
            row: v_0.v_0, v_1.v_0, v_1.v_1 and so on.

    Call arguments:
        inputs: A list of floats [batch, dim], all of one shape.
        training: Whether native kernels may do the work; None is as True where one tape, which is
            not persistent, records the call.

    Returns:
        Floats [batch, n (n - 1) / 2] for n inputs, or [batch, n (n + 1) / 2] with
        `self_interaction`.

    Raises:
        ValueError: If there are too few inputs, or their shapes differ.

    Example:
        >>> DotInteraction()([tf.ones((2, 4)), tf.ones((2, 4)), tf.ones((2, 4))]).shape
        TensorShape([2, 3])

    References:
        Naumov et al., arXiv 1906.00091, section 2.1; `interact_features` of its code.
    """

    def __init__(self, self_interaction: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.self_interaction = self_interaction

    def build(self, input_shape: Any) -> None:
        """Checks the shapes; the layer has no weights."""
        self._check(input_shape)
        self.built = True

    @traced_as_written
    def call(self, inputs: Sequence[tf.Tensor], training: bool | None = None) -> tf.Tensor:
        """Returns [batch, pairs]."""
        self._check([vector.shape for vector in inputs])
        if _by_kernels(inputs, training):
            return pairs.dot_products(inputs, self.self_interaction)
        vectors = restack(inputs, 1)
        if training is False:  # what is exported has no gradients
            return _lower_triangle_products(vectors, self.self_interaction)
        return _differentiable_products(vectors, self.self_interaction)

    def after_first(self, inputs: Sequence[tf.Tensor], training: bool | None = None) -> tf.Tensor:
        """Returns the first of the inputs and what the layer makes of all, [batch, dim + pairs].

        In training one kernel writes both side by side, and makes one gradient of both parts.

        Args:
            inputs: As for a call.
            training: As for a call.
        """
        if self.compute_dtype == "float32" and _by_kernels(inputs, training):
            self._check([vector.shape for vector in inputs])
            return pairs.dot_products(inputs, self.self_interaction, after_first=True)
        return tf.concat([inputs[0], self(inputs, training=training)], 1)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, int]:
        """Returns (batch, number of pairs)."""
        self._check(input_shape)
        count = len(input_shape)
        pairs = count * (count + 1) // 2 if self.self_interaction else count * (count - 1) // 2
        return (input_shape[0][0], pairs)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that make an equal layer."""
        return {**super().get_config(), "self_interaction": self.self_interaction}

    def _check(self, shapes: Any) -> None:
        if not isinstance(shapes, list | tuple) or not all(
            isinstance(shape, list | tuple | tf.TensorShape) for shape in shapes
        ):
            raise ValueError(
                f"inputs of DotInteraction must be a list of tensors [batch, dim], but have the "
                f"shape {shapes}."
            )
        least = 1 if self.self_interaction else 2
        if len(shapes) < least:
            raise ValueError(
                f"DotInteraction needs at least {least} inputs, but got {len(shapes)}."
            )
        sizes = [tuple(shape) for shape in shapes]
        if any(len(size) != 2 or size[1] != sizes[0][1] for size in sizes):
            raise ValueError(
                f"inputs of DotInteraction must all have the shape [batch, dim], but have {sizes}."
            )


def _by_kernels(inputs: Sequence[tf.Tensor], training: bool | None) -> bool:
    # What a tape records is a training step, whatever Keras was told. Several tapes, or one that is
    # persistent, may want gradients of gradients, which kernels do not have.
    trains = tapes_that_record(*inputs) == 1 if training is None else training
    return pairs.are_used(trains, inputs[0].dtype.name)


def _lower_triangle_products(vectors: tf.Tensor, diagonal: bool) -> tf.Tensor:
    """Returns the lower triangle [batch, pairs] of the products of vectors [batch, n, dim].

    Row i of the triangle is a slice, so runs of numbers are copied, not single ones.
    """
    count = vectors.shape[1]
    square = tf.matmul(vectors, vectors, transpose_b=True)
    flat = tf.reshape(square, [-1, count * count])
    ends = [row * count + row + int(diagonal) for row in range(count)]
    return tf.concat([flat[:, row * count : end] for row, end in enumerate(ends)], 1)


def _differentiable_products(vectors: tf.Tensor, diagonal: bool) -> tf.Tensor:
    """Returns the same.

    Autodiff would pad every slice to the full square, so the gradient is written out: with G the
    triangle of gradients and V the vectors, it is (G + G^T) V.
    """
    count = vectors.shape[1]
    lengths = [row + int(diagonal) for row in range(count)]

    @tf.custom_gradient
    def products(vectors: tf.Tensor) -> tuple[tf.Tensor, Any]:
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            batch = tf.shape(upstream)[0]
            pieces = []
            start = 0
            for length in lengths:
                pieces.append(upstream[:, start : start + length])
                pieces.append(tf.zeros([batch, count - length], upstream.dtype))
                start += length
            triangle = tf.reshape(tf.concat(pieces, 1), [-1, count, count])
            return tf.matmul(triangle, vectors) + tf.matmul(triangle, vectors, transpose_a=True)

        return _lower_triangle_products(vectors, diagonal), gradient

    return products(vectors)
