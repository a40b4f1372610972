"""The one door to Keras: `from tf_dlrm.keras_api import keras`.

`keras` is what `tf.keras` is in this process: Keras 3 by default, Keras 2 (the package `tf_keras`)
where the environment variable `TF_USE_LEGACY_KERAS` is 1, the switch that TensorFlow and TensorFlow
Recommenders document. Layers and models use only what both have.
"""

import contextlib
import importlib
import os
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

# The values that TensorFlow itself takes for true (tensorflow/python/util/lazy_loader).
_TRUE = ("1", "true", "True")


def uses_legacy_keras() -> bool:
    """Returns whether this process follows Keras 2."""
    return os.environ.get("TF_USE_LEGACY_KERAS") in _TRUE


def _import_keras() -> Any:
    if uses_legacy_keras():
        try:
            return importlib.import_module("tf_keras")
        except ModuleNotFoundError as error:
            if error.name != "tf_keras":
                raise
            raise ImportError(
                "TF_USE_LEGACY_KERAS asks for Keras 2, but the package tf_keras is not installed. "
                "Install it with `pip install tf-keras` in the version of TensorFlow, or unset "
                "TF_USE_LEGACY_KERAS to use Keras 3."
            ) from error
    module = importlib.import_module("keras")
    if not hasattr(module, "version") or int(module.version().split(".")[0]) < 3:
        raise ImportError(
            f"tf_dlrm needs Keras 3, but keras {getattr(module, '__version__', 'unknown')} is "
            "installed. Install `keras>=3`, or set TF_USE_LEGACY_KERAS=1 to use Keras 2."
        )
    if module.backend.backend() != "tensorflow":
        raise ImportError(
            f"tf_dlrm needs the TensorFlow backend of Keras, but KERAS_BACKEND chose "
            f"'{module.backend.backend()}'. Set KERAS_BACKEND=tensorflow."
        )
    return module


keras: Any = _import_keras()


def built(layer: Any, *shape: Any) -> Any:
    """Builds a layer, with the names of weights that a call would give them; returns it.

    Keras 2's `.h5` files keep all weights of a model within a model by their names.
    """
    with tf.name_scope(layer.name):
        layer.build(*shape)
    return layer


@contextlib.contextmanager
def computing_in(dtype: str) -> Iterator[None]:
    """Layers that are made within compute in a type; their weights are float32."""
    with under_policy(dtype if dtype == "float32" else f"mixed_{dtype}"):
        yield


@contextlib.contextmanager
def under_policy(policy: Any) -> Iterator[None]:
    """Layers that are made within have a dtype policy, which may be the name of one."""
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(policy)
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(before)
