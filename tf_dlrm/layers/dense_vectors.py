"""DenseVectors: a vector for every dense feature, as long as the feature's value."""

from typing import Any

import tensorflow as tf

from tf_dlrm.errors import check_whole
from tf_dlrm.keras_api import keras
from tf_dlrm.layers.initial_weights import normal_by_fans
from tfrecords.tracing import traced_as_written


@keras.saving.register_keras_serializable(package="tf_dlrm")
class DenseVectors(keras.layers.Layer):
    """x_i v_i for every dense feature x_i: what a factorization machine makes of numbers.

    The vectors v_i are the layer's weights; they start as N(0, sqrt(2 / (features + dim))).

    Args:
        dim: Size of the vectors.
        seed: Seed of the first values; None draws others each time.

    Call arguments:
        inputs: Floats [batch, features].

    Returns:
        Floats [batch, features, dim].

    Raises:
        ValueError: If `dim` is no whole number above 0, or the inputs are no matrix.

    Example:
        >>> DenseVectors(8)(tf.ones((2, 13))).shape
        TensorShape([2, 13, 8])

    References:
        Rendle, Factorization Machines, ICDM 2010, section III, equation 1.
    """

    def __init__(self, dim: int, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_whole("dim", dim, 1)
        self.dim = dim
        self.seed = seed

    def build(self, input_shape: Any) -> None:
        """Creates the vectors for `input_shape[1]` features."""
        self._check(input_shape)
        self.kernel = self.add_weight(
            name="kernel",
            shape=(input_shape[1], self.dim),
            initializer=normal_by_fans(self.seed),
        )
        self.built = True

    @traced_as_written
    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns [batch, features, dim]."""
        self._check(inputs.shape)
        return inputs[:, :, tf.newaxis] * self.kernel

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, int, int]:
        """Returns (batch, features, dim)."""
        return (*tuple(input_shape), self.dim)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that make an equal layer."""
        return {**super().get_config(), "dim": self.dim, "seed": self.seed}

    def _check(self, shape: Any) -> None:
        if len(shape) != 2:
            raise ValueError(
                "inputs of DenseVectors must have the shape [batch, features], but have "
                f"{tuple(shape)}."
            )
