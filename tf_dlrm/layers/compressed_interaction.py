"""CompressedInteraction: the compressed interaction network (CIN) of xDeepFM."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tf_dlrm.keras_api import keras
from tf_dlrm.layers.initial_weights import normal_by_fans
from tfrecords.tracing import traced_as_written


@keras.saving.register_keras_serializable(package="tf_dlrm")
class CompressedInteraction(keras.layers.Layer):
    """Interactions of whole vectors, one degree higher with each of its layers.

    With X^0 the given vectors, vector h of layer k is the weighted sum of the elementwise products
    of all pairs of a vector of layer k - 1 and a given vector: the sum over i and j of
    W^k_(h,i,j) X^(k-1)_i * X^0_j. The result holds the sum of the elements of every vector of every
    layer but X^0. W^k starts as N(0, sqrt(2 / (inputs + outputs))), its inputs being the pairs.
    There is no activation between layers, which the paper found best.

    Args:
        units: Number of vectors of each layer.
        seed: Seed of the first values; None draws others each time.

    Call arguments:
        vectors: Floats [batch, fields, dim].

    Returns:
        Floats [batch, sum of `units`].

    Raises:
        ValueError: If `units` are no whole numbers above 0, or the vectors are no tensor of three
            dimensions.

    Example:
        >>> CompressedInteraction([5, 4])(tf.ones((2, 3, 8))).shape
        TensorShape([2, 9])

    References:
        Lian et al., xDeepFM, arXiv 1803.05170, section 3.2, equations 6 to 8.
    """

    def __init__(self, units: Sequence[int], seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not units or any(isinstance(u, bool) or not isinstance(u, int) or u < 1 for u in units):
            raise ValueError(
                f"units must be one or more whole numbers of at least 1, but is {units!r}."
            )
        self.units = tuple(units)
        self.seed = seed

    def build(self, input_shape: Any) -> None:
        """Creates the weights for `input_shape[1]` fields."""
        self._check(input_shape)
        fields = input_shape[1]
        for k, (before, after) in enumerate(zip((fields, *self.units), self.units, strict=False)):
            kernel = self.add_weight(
                name=f"kernel_{k}",
                shape=(before * fields, after),
                initializer=normal_by_fans(None if self.seed is None else self.seed + k),
            )
            # One attribute each: tf.train.Checkpoint does not look into lists of Keras 3.
            setattr(self, f"kernel_{k}", kernel)
        self.built = True

    @traced_as_written
    def call(self, vectors: tf.Tensor) -> tf.Tensor:
        """Returns [batch, sum of `units`]."""
        self._check(vectors.shape)
        _, fields, dim = vectors.shape
        # Vectors lie along axis 1, so that every layer is one matrix product over its pairs.
        first = tf.transpose(vectors, [0, 2, 1])
        layer, sums = first, []
        for k, units in enumerate(self.units):
            pairs = layer[:, :, :, tf.newaxis] * first[:, :, tf.newaxis, :]
            flat = tf.reshape(pairs, [-1, layer.shape[2] * fields])
            layer = tf.reshape(tf.matmul(flat, getattr(self, f"kernel_{k}")), [-1, dim, units])
            sums.append(tf.reduce_sum(layer, 1))
        return tf.concat(sums, 1)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, int]:
        """Returns (batch, sum of `units`)."""
        return (input_shape[0], sum(self.units))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that make an equal layer."""
        return {**super().get_config(), "units": list(self.units), "seed": self.seed}

    def _check(self, shape: Any) -> None:
        if len(shape) != 3 or None in tuple(shape)[1:]:
            raise ValueError(
                "vectors of CompressedInteraction must have the shape [batch, fields, dim] with "
                f"known fields and dim, but have {tuple(shape)}."
            )
