"""Initializers by the names and configs that Keras gives its own; Keras itself is not needed."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any

from tf_dlrm.embeddings.initializers import (
    Constant,
    Initializer,
    Normal,
    Range,
    TruncatedNormal,
    Uniform,
)

# The standard deviation of a normal distribution that is cut off at 2, as Keras has it.
_TRUNCATED_STDDEV = 0.87962566103423978
# Names as Keras compares them, without case and underscores; and the arguments by default.
_NORMAL = {"mean": 0.0, "stddev": 0.05}
_SCALING: dict[str, Any] = {"scale": 1.0, "mode": "fan_in", "distribution": "truncated_normal"}
_DEFAULTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "zeros": ("constant", {"value": 0.0}),
    "zero": ("constant", {"value": 0.0}),
    "ones": ("constant", {"value": 1.0}),
    "one": ("constant", {"value": 1.0}),
    "constant": ("constant", {"value": 0.0}),
    "uniform": ("uniform", {"minval": -0.05, "maxval": 0.05}),
    "randomuniform": ("uniform", {"minval": -0.05, "maxval": 0.05}),
    "normal": ("normal", _NORMAL),
    "randomnormal": ("normal", _NORMAL),
    "truncatednormal": ("truncated", _NORMAL),
    "variancescaling": ("scaling", _SCALING),
    "glorotuniform": ("scaling", _SCALING | {"mode": "fan_avg", "distribution": "uniform"}),
    "glorotnormal": ("scaling", _SCALING | {"mode": "fan_avg"}),
    "heuniform": ("scaling", _SCALING | {"scale": 2.0, "distribution": "uniform"}),
    "henormal": ("scaling", _SCALING | {"scale": 2.0}),
    "lecununiform": ("scaling", _SCALING | {"distribution": "uniform"}),
    "lecunnormal": ("scaling", _SCALING),
}


def from_keras(initializer: Any, rows: int, dim: int) -> Initializer:
    """Returns the initializer of tables that draws from the distribution of one of Keras's.

    Args:
        initializer: One of Keras's initializers, or its name, such as "uniform".
        rows: Rows of the table, the inputs of those that scale by the numbers of in- and outputs.
        dim: Columns of the table, the outputs.

    Raises:
        ValueError: If there is none that draws so, or the initializer has a seed of its own.
    """
    config: dict[str, Any] = {}
    if isinstance(initializer, str):
        name = initializer
    elif isinstance(initializer, type):
        name = initializer.__name__
    else:
        name = type(initializer).__name__
        if hasattr(initializer, "get_config"):
            config = initializer.get_config()
    kind, defaults = _DEFAULTS.get(name.replace("_", "").lower(), ("", {}))
    if not kind:
        given = repr(initializer) if isinstance(initializer, str) else f"a {name}"
        raise ValueError(
            "it must be one of tf_dlrm.embeddings (Uniform, Range, Normal, TruncatedNormal, "
            "Constant), or one of Keras's that draw each number alone (RandomUniform, "
            "RandomNormal, TruncatedNormal, Constant, Zeros, Ones, VarianceScaling, Glorot, He, "
            f"Lecun) or its name, but is {given}; values of your own can be written into a table "
            "by its assign_rows"
        )
    if config.get("seed") is not None:
        raise ValueError(
            f"{name} has seed={config['seed']}, but a table's values follow from the seed of its "
            "layer and from its name; leave the seed out"
        )
    values = {key: config.get(key, default) for key, default in defaults.items()}
    for key, value in values.items():
        if not isinstance(value, str | numbers.Real):
            raise ValueError(f"{key} of {name} must be a number, but is {value!r}")
    return _converted(kind, values, rows, dim)


def _converted(kind: str, values: Mapping[str, Any], rows: int, dim: int) -> Initializer:
    if kind == "constant":
        return Constant(float(values["value"]))
    if kind == "uniform":
        return Range(float(values["minval"]), float(values["maxval"]))
    if kind == "normal":
        return Normal(float(values["mean"]), float(values["stddev"]))
    if kind == "truncated":
        return TruncatedNormal(float(values["mean"]), float(values["stddev"]))
    fans = {"fan_in": rows, "fan_out": dim, "fan_avg": (rows + dim) / 2}
    variance = float(values["scale"]) / max(1.0, fans[values["mode"]])
    if values["distribution"] == "uniform":
        return Uniform(math.sqrt(3.0 * variance))
    if values["distribution"] == "untruncated_normal":
        return Normal(0.0, math.sqrt(variance))
    return TruncatedNormal(0.0, math.sqrt(variance) / _TRUNCATED_STDDEV)
