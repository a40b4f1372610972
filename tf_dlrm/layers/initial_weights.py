"""The first values of the layers' kernels."""

from typing import Any

from tf_dlrm.keras_api import keras


def normal_by_fans(seed: int | None) -> Any:
    """Returns the initializer N(0, sqrt(2 / (inputs + outputs))) of the paper's code."""
    return keras.initializers.VarianceScaling(
        scale=1.0, mode="fan_avg", distribution="untruncated_normal", seed=seed
    )
