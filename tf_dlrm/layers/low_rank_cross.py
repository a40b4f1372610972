"""LowRankCross: a layer of a cross network whose matrix is a product of two narrow ones."""

from typing import Any

import tensorflow as tf

from tf_dlrm.errors import check_whole
from tf_dlrm.keras_api import keras
from tf_dlrm.layers.cross import Cross
from tf_dlrm.layers.initial_weights import normal_by_fans


@keras.saving.register_keras_serializable(package="tf_dlrm")
class LowRankCross(Cross):
    """x0 * (U (V x) + b) + x: `Cross` with 2 * width * rank weights in place of width^2.

    U and V start as N(0, sqrt(2 / (width + rank))), b as zeros.

    Args:
        rank: Columns of U and rows of V; fewer than half the width, or a `Cross` is cheaper.
        seed: Seed of the first values; None draws others each time.

    Raises:
        ValueError: If `rank` is no whole number above 0, and as `Cross`, as which it is called.

    Example:
        >>> x0 = tf.ones((2, 8))
        >>> LowRankCross(2)(x0, x0).shape
        TensorShape([2, 8])

    References:
        Wang et al., DCN V2, arXiv 2008.13535, "Cost-Effective Mixture of Low-Rank DCN", equation 2;
        MLPerf's DLRM-DCNv2 has three such layers of rank 512.
    """

    def __init__(self, rank: int, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(seed, **kwargs)
        check_whole("rank", rank, 1)
        self.rank = rank

    def _add_kernels(self, width: int) -> None:
        self.kernel_v = self.add_weight(
            name="kernel_v", shape=(width, self.rank), initializer=normal_by_fans(self.seed)
        )
        self.kernel_u = self.add_weight(
            name="kernel_u",
            shape=(self.rank, width),
            initializer=normal_by_fans(None if self.seed is None else self.seed + 1),
        )

    def _cross(self, x0: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        return x0 * (tf.matmul(tf.matmul(x, self.kernel_v), self.kernel_u) + self.bias) + x

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that make an equal layer."""
        return {**super().get_config(), "rank": self.rank}
