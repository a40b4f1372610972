"""How Python functions become TensorFlow graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from tfrecords.lazy import tf

Function = TypeVar("Function", bound=Callable[..., Any])


def traced_as_written(function: Function) -> Function:
    """Returns the function, which is traced as it is written, with all that it calls.

    A `tf.function` that it calls is rewritten still, unless it holds a function of this kind.
    By default AutoGraph rewrites the source of all that is traced, down to Keras's layers, so that
    `if` and `while` may depend on tensors. Nothing here needs that, and it nearly doubles the time
    of a short run.
    """
    # Keras 2 looks through such decorators for the arguments of a layer's `call`.
    decorate = tf.__internal__.decorator.make_decorator
    result: Function = decorate(function, tf.autograph.experimental.do_not_convert(function))
    return result
