"""Every private name of Keras that is used; those of TensorFlow are in `internals`.

All were seen in Keras 3.10 and 3.15, and in Keras 2 as tf_keras 2.17 and 2.21, unless it is said of
which one. Beside what is here, classes of layers and models override methods whose names begin with
an underscore. `tests/test_internals.py` has the list, and says of a new version what is missing.
"""

import importlib
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from tf_dlrm.keras_api import keras, uses_legacy_keras

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


def policy_of(layer: Any) -> Any:
    """Returns the dtype policy of a layer."""
    return layer.dtype_policy if hasattr(layer, "dtype_policy") else layer._dtype_policy


def strategy_of(model: Any) -> tf.distribute.Strategy | None:
    """Returns the strategy within whose scope a model of Keras 3 was made, if there was one."""
    strategy: tf.distribute.Strategy | None = model._distribute_strategy
    return strategy


def layers_within(layer: Any) -> Iterator[Any]:
    """Yields the layers that are attributes of a layer, or in a list or dict of one."""
    yield from layer._flatten_layers(recursive=False, include_self=False)


def decays(optimizer: Any, weight: Any) -> bool:
    """Returns whether the weight decay of an optimizer, which has one, acts on a weight."""
    return bool(optimizer._use_weight_decay(weight))


def slot_of(optimizer: Any, name: str, weight: Any) -> tf.Variable:
    """Returns one of the variables, as "momentums", that a Keras 2 optimizer has for a weight."""
    place = optimizer._index_dict[optimizer._var_key(weight)]
    slot: tf.Variable = getattr(optimizer, f"_{name}")[place]
    return slot
