"""ProjectedInteraction: dot products between two sets of vectors that MLPs make of all vectors."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tf_dlrm.embeddings.restack import side_by_side
from tf_dlrm.keras_api import built, keras
from tf_dlrm.keras_internals import policy_of
from tf_dlrm.layers.mlp import MLP
from tfrecords.tracing import traced_as_written


@keras.saving.register_keras_serializable(package="tf_dlrm")
class ProjectedInteraction(keras.layers.Layer):
    """Every product of one of F1 with one of F2 projected vectors, in place of all pairs.

    Two MLPs see all vectors side by side; the output of the first is cut into F1 vectors, that of
    the second into F2, of the width of the inputs. So the number of products does not grow with the
    square of the number of features. All layers have ReLU but each MLP's last.

    Args:
        first: Units of the first MLP; the last is F1 times the width.
        second: Units of the second MLP; the last is F2 times the width.
        seed: Seed of the first values; None draws others each time.

    Call arguments:
        vectors: A sequence of floats [batch, width].

    Returns:
        Floats [batch, F1 * F2], the products of the first projected vector first.

    Raises:
        ValueError: If units are no whole numbers above 0, the last ones no multiples of the width,
            or the vectors not of one width.

    Example:
        >>> layer = ProjectedInteraction([16, 8], [12])
        >>> layer([tf.ones((2, 4)), tf.ones((2, 4)), tf.ones((2, 4))]).shape
        TensorShape([2, 6])

    References:
        TorchRec's `InteractionProjectionArch`, an option of its DLRM.
    """

    def __init__(
        self, first: Sequence[int], second: Sequence[int], seed: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.seed = seed
        dtype = policy_of(self)
        seeds = (None, None) if seed is None else (seed, seed + 500)
        self.first = MLP(first, seed=seeds[0], dtype=dtype, name="first")
        self.second = MLP(second, seed=seeds[1], dtype=dtype, name="second")

    def build(self, input_shape: Any) -> None:
        """Creates the weights for vectors of the shapes `input_shape`."""
        width = self._width(input_shape)
        for mlp in (self.first, self.second):
            built(mlp, (None, len(input_shape) * width))
        self.built = True

    @traced_as_written
    def call(self, vectors: Sequence[tf.Tensor], training: bool | None = None) -> tf.Tensor:
        """Returns [batch, F1 * F2]."""
        width = self._width([vector.shape for vector in vectors])
        flat = side_by_side(vectors)
        first, second = (
            tf.reshape(mlp(flat, training=training), [-1, mlp.units[-1] // width, width])
            for mlp in (self.first, self.second)
        )
        products = tf.matmul(first, second, transpose_b=True)
        return tf.reshape(products, [-1, first.shape[1] * second.shape[1]])

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, int]:
        """Returns (batch, F1 * F2)."""
        width = self._width(input_shape)
        return (
            input_shape[0][0],
            (self.first.units[-1] // width) * (self.second.units[-1] // width),
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that make an equal layer."""
        return {
            **super().get_config(),
            "first": list(self.first.units),
            "second": list(self.second.units),
            "seed": self.seed,
        }

    def _width(self, shapes: Sequence[Any]) -> int:
        widths = {tuple(shape)[-1] for shape in shapes}
        if len(widths) != 1 or any(len(shape) != 2 for shape in shapes):
            raise ValueError(
                "vectors of ProjectedInteraction must all have one shape, [batch, width], but have "
                f"{[tuple(shape) for shape in shapes]}."
            )
        (width,) = widths
        for name, mlp in (("first", self.first), ("second", self.second)):
            if mlp.units[-1] % width:
                raise ValueError(
                    f"{name} of ProjectedInteraction must end in a multiple of {width}, the width "
                    f"of the vectors, but is {mlp.units}."
                )
        return int(width)
