"""Initializers by the names and configs that Keras gives its own; Keras itself is not needed."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping
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
# What each makes of numbers, which have Keras's names, by default Keras's values, and our order.
_Known = tuple[Callable[..., Initializer], Mapping[str, Any]]
_ZEROS: _Known = (Constant, {"value": 0.0})
_ONES: _Known = (Constant, {"value": 1.0})
_UNIFORM: _Known = (Range, {"minval": -0.05, "maxval": 0.05})
_NORMAL: _Known = (Normal, {"mean": 0.0, "stddev": 0.05})


def _scaled(scale: float, mode: str, distribution: str, rows: int, dim: int) -> Initializer:
    fans = {"fan_in": rows, "fan_out": dim, "fan_avg": (rows + dim) / 2}
    variance = float(scale) / max(1.0, fans[mode])
    if distribution == "uniform":
        return Uniform(math.sqrt(3.0 * variance))
    if distribution == "untruncated_normal":
        return Normal(0.0, math.sqrt(variance))
    return TruncatedNormal(0.0, math.sqrt(variance) / _TRUNCATED_STDDEV)


def _scaling(
    scale: float = 1.0, mode: str = "fan_in", distribution: str = "truncated_normal"
) -> _Known:
    return _scaled, {"scale": scale, "mode": mode, "distribution": distribution}


# By names as Keras compares them, without case and underscores.
_KNOWN: Mapping[str, _Known] = {
    "zeros": _ZEROS,
    "zero": _ZEROS,
    "ones": _ONES,
    "one": _ONES,
    "constant": _ZEROS,
    "uniform": _UNIFORM,
    "randomuniform": _UNIFORM,
    "normal": _NORMAL,
    "randomnormal": _NORMAL,
    "truncatednormal": (TruncatedNormal, _NORMAL[1]),
    "variancescaling": _scaling(),
    "glorotuniform": _scaling(mode="fan_avg", distribution="uniform"),
    "glorotnormal": _scaling(mode="fan_avg"),
    "heuniform": _scaling(2.0, distribution="uniform"),
    "henormal": _scaling(2.0),
    "lecununiform": _scaling(distribution="uniform"),
    "lecunnormal": _scaling(),
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
    make, defaults = _KNOWN.get(name.replace("_", "").lower(), (None, {}))
    if make is None:
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
    values: dict[str, Any] = {key: config.get(key, default) for key, default in defaults.items()}
    for key, value in values.items():
        if not isinstance(value, str | numbers.Real):
            raise ValueError(f"{key} of {name} must be a number, but is {value!r}")
    if make is _scaled:
        return _scaled(**values, rows=rows, dim=dim)
    return make(*map(float, values.values()))
