"""Cross: a layer of a cross network, with a full matrix."""

from typing import Any

import tensorflow as tf

from tf_dlrm.keras_api import keras
from tf_dlrm.layers.initial_weights import normal_by_fans
from tfrecords.tracing import traced_as_written


@keras.saving.register_keras_serializable(package="tf_dlrm")
class Cross(keras.layers.Layer):
    """x0 * (W x + b) + x: one more degree of interactions between the elements of x0.

    A cross network calls one such layer after the other, each on x0 and on what the one before
    returned, the first on x0 and x0. W starts as N(0, sqrt(1 / width)), b as zeros.

    Args:
        seed: Seed of the first values; None draws others each time.

    Call arguments:
        x0: Floats [batch, width], the input of the cross network.
        x: Floats [batch, width], the output of its layer before.

    Returns:
        Floats [batch, width].

    Raises:
        ValueError: If the inputs are not two matrices of one width.

    Example:
        >>> x0 = tf.ones((2, 8))
        >>> x1 = Cross()(x0, x0)
        >>> Cross()(x0, x1).shape
        TensorShape([2, 8])

    References:
        Wang et al., DCN V2, arXiv 2008.13535, section 3.2, equation 1.
    """

    def __init__(self, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seed = seed

    def build(self, x0_shape: Any, x_shape: Any = None) -> None:
        """Creates the weights for the width `x0_shape[-1]`; Keras 2 passes no other shape."""
        self._check(x0_shape, x_shape or x0_shape)
        width = x0_shape[-1]
        self._add_kernels(width)
        self.bias = self.add_weight(name="bias", shape=(width,), initializer="zeros")
        self.built = True

    def _add_kernels(self, width: int) -> None:
        self.kernel = self.add_weight(
            name="kernel", shape=(width, width), initializer=normal_by_fans(self.seed)
        )

    @traced_as_written
    def call(self, x0: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """Returns [batch, width]."""
        self._check(x0.shape, x.shape)
        return self._cross(x0, x)

    def _cross(self, x0: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        return x0 * (tf.matmul(x, self.kernel) + self.bias) + x

    def compute_output_shape(self, x0_shape: Any, x_shape: Any = None) -> tuple[int | None, int]:
        """Returns (batch, width)."""
        del x_shape
        return tuple(x0_shape)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that make an equal layer."""
        return {**super().get_config(), "seed": self.seed}

    def _check(self, x0_shape: Any, x_shape: Any) -> None:
        shapes = [tuple(x0_shape), tuple(x_shape)]
        if any(len(shape) != 2 or shape[1] != shapes[0][1] for shape in shapes):
            raise ValueError(
                f"x0 and x of {type(self).__name__} must have one shape, [batch, width], but have "
                f"{shapes[0]} and {shapes[1]}."
            )
