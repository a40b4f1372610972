"""The one door to Keras: `from tf_dlrm.keras_api import keras`.

`keras` is what `tf.keras` is in this process: Keras 3 by default, Keras 2 (the package `tf_keras`)
where the environment variable `TF_USE_LEGACY_KERAS` is 1, the switch that TensorFlow and TensorFlow
Recommenders document. Layers and models use only what both have.
"""

import contextlib
import importlib
import inspect
import os
from collections.abc import Iterator, Sequence
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


if uses_legacy_keras():

    def add_as_weight(layer: Any, variable: tf.Variable) -> Any:
        """Makes a variable one of the weights of a layer that Keras does not train; returns it.

        It becomes no dependency of the layer, so that a checkpoint does not hold it twice.
        """
        layer._non_trainable_weights.append(variable)
        return variable

else:

    class _Weight(keras.Variable):
        """A variable of TensorFlow as one of Keras, which keeps what it is given to start with."""

        def _initialize_with_initializer(self, initializer: Any) -> None:
            self._initialize(initializer(self._shape, dtype=self._dtype))

    def add_as_weight(layer: Any, variable: tf.Variable) -> Any:
        """Makes a variable one of the weights of a layer that Keras does not train; returns it.

        It becomes no dependency of the layer, so that a checkpoint does not hold it twice.
        """
        weight = _Weight(
            lambda shape, dtype: variable,
            shape=tuple(variable.shape),
            dtype=variable.dtype.name,
            trainable=False,
            autocast=False,
            name=variable.name.split("/")[-1].split(":")[0],
        )
        layer._track_variable(weight)
        return weight


def values_are_given(weights: Sequence[Any]) -> bool:
    """Returns whether Keras 3's `stateless_call` has other values for some weights of a layer."""
    if uses_legacy_keras():
        return False
    stateless = importlib.import_module("keras.src.backend.common.stateless_scope")
    scope = stateless.get_stateless_scope()
    return scope is not None and any(scope.get_current_value(w) is not None for w in weights)


def only_shapes_are_wanted() -> bool:
    """Returns whether Keras 3 calls a layer on symbols, to learn the shapes of its outputs."""
    if uses_legacy_keras():
        return False
    scope = importlib.import_module("keras.src.backend.common.symbolic_scope")
    return bool(scope.in_symbolic_scope())


def calling_layers() -> list[Any]:
    """Returns the layers and models whose methods are being run, the outermost last.

    Neither Keras tells a layer which model trains it, and a functional model cannot be asked to,
    so the call stack has to: the methods of a model, such as `train_step`, are on it.
    """
    found: list[Any] = []
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_varnames[:1] == ("self",):
            owner = frame.f_locals.get("self")
            if isinstance(owner, keras.layers.Layer) and not any(owner is f for f in found):
                found.append(owner)
        frame = frame.f_back
    return found


def built(layer: Any, *shape: Any) -> Any:
    """Builds a layer, with the names of weights that a call would give them; returns it.

    Keras 2's `.h5` files keep all weights of a model within a model by their names.
    """
    with tf.name_scope(layer.name):
        layer.build(*shape)
    return layer


def writes_optimizer_to_h5() -> bool:
    """Returns whether a model is being written to an `.h5` file, with its optimizer's state.

    Layers are not told into which file their config goes, so the call stack has to tell. In both
    Kerases the function has this name.
    """
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "save_model_to_hdf5":
            names = frame.f_locals
            return bool(names["include_optimizer"] and getattr(names["model"], "optimizer", None))
        frame = frame.f_back
    return False


def gives_state_tree() -> bool:
    """Returns whether Keras 3's `get_state_tree` asks for weights, to keep them.

    It is a method of models, which ask their layers for variables, so the call stack has to tell.
    `load_weights` calls it for the shapes only, and OrbaxCheckpoint for weights without the
    optimizer's, if so told.
    """
    if uses_legacy_keras():
        return False
    found = False
    frame = inspect.currentframe()
    while frame is not None:
        name = frame.f_code.co_name
        found = found or name == "get_state_tree"
        if found and (
            name in ("load_weights", "load_model")
            or getattr(frame.f_locals.get("self"), "save_weights_only", False)
        ):
            return False
        frame = frame.f_back
    return found


@contextlib.contextmanager
def computing_in(dtype: str) -> Iterator[None]:
    """Layers that are made within compute in a type; their weights are float32."""
    with under_policy(dtype if dtype == "float32" else f"mixed_{dtype}"):
        yield


def policy_of(layer: Any) -> Any:
    """Returns the dtype policy of a layer."""
    return layer.dtype_policy if hasattr(layer, "dtype_policy") else layer._dtype_policy


@contextlib.contextmanager
def under_policy(policy: Any) -> Iterator[None]:
    """Layers that are made within have a dtype policy, which may be the name of one."""
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(policy)
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(before)
