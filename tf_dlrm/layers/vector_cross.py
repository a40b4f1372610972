"""VectorCross: a layer of the first cross network, with a vector in place of a matrix."""

import tensorflow as tf

from tf_dlrm.keras_api import keras
from tf_dlrm.layers.cross import Cross
from tf_dlrm.layers.initial_weights import normal_by_fans


@keras.saving.register_keras_serializable(package="tf_dlrm")
class VectorCross(Cross):
    """x0 * (x . w) + b + x: all elements of x0 times one number, with 2 * width weights.

    w starts as N(0, sqrt(2 / (width + 1))), b as zeros.

    It is called as `Cross` is.

    Example:
        >>> x0 = tf.ones((2, 8))
        >>> VectorCross()(x0, x0).shape
        TensorShape([2, 8])

    References:
        Wang et al., Deep & Cross Network for Ad Click Predictions, arXiv 1708.05123, section 2.2,
        equation 3.
    """

    def _add_kernels(self, width: int) -> None:
        self.kernel = self.add_weight(
            name="kernel", shape=(width, 1), initializer=normal_by_fans(self.seed)
        )

    def _cross(self, x0: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        return x0 * tf.matmul(x, self.kernel) + self.bias + x
