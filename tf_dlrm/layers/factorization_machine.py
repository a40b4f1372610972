"""FactorizationMachine: the sum of the dot products of all pairs of vectors."""

from typing import Any

import tensorflow as tf

from tf_dlrm.keras_api import keras
from tfrecords.tracing import traced_as_written


@keras.saving.register_keras_serializable(package="tf_dlrm")
class FactorizationMachine(keras.layers.Layer):
    """The second-order term of a factorization machine, in time linear in the number of fields.

    The sum over i < j of v_i . v_j, as half the sum over the elements of
    (v_1 + v_2 + ...)^2 - (v_1^2 + v_2^2 + ...). The layer has no weights; the vectors are those of
    the fields that an example has, times the fields' values.

    Call arguments:
        vectors: Floats [batch, fields, dim].

    Returns:
        Floats [batch, 1].

    Raises:
        ValueError: If the vectors are no tensor of three dimensions.

    Example:
        >>> FactorizationMachine()(tf.ones((1, 3, 4))).numpy()
        array([[12.]], dtype=float32)

    References:
        Rendle, Factorization Machines, ICDM 2010, section III, lemma 3.1.
    """

    def build(self, input_shape: Any) -> None:
        """Checks the shape; the layer has no weights."""
        self._check(input_shape)
        self.built = True

    @traced_as_written
    def call(self, vectors: tf.Tensor) -> tf.Tensor:
        """Returns [batch, 1]."""
        self._check(vectors.shape)
        square_of_sum = tf.square(tf.reduce_sum(vectors, 1))
        sum_of_squares = tf.reduce_sum(tf.square(vectors), 1)
        return 0.5 * tf.reduce_sum(square_of_sum - sum_of_squares, 1, keepdims=True)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, int]:
        """Returns (batch, 1)."""
        return (input_shape[0], 1)

    def _check(self, shape: Any) -> None:
        if len(shape) != 3:
            raise ValueError(
                "vectors of FactorizationMachine must have the shape [batch, fields, dim], but "
                f"have {tuple(shape)}."
            )
