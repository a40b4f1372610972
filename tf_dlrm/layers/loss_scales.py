"""Optimizers in this process that scale losses: the ones a loop of one's own may use unseen."""

from __future__ import annotations

import gc
import sys
import weakref
from typing import Any

from tf_dlrm.keras_api import keras, uses_legacy_keras


def scales_losses(optimizer: Any) -> bool:
    """Returns whether a Keras optimizer scales the loss, and gradients back."""
    return isinstance(optimizer, keras.mixed_precision.LossScaleOptimizer) or bool(
        getattr(optimizer, "loss_scale_factor", None)
    )


def kind_of_living() -> str | None:
    """Returns the name of the class of an optimizer in this process that scales losses, or None.

    Looking through all objects of the process takes tenths of a second, so it is done again only
    after an optimizer was made or gone; where none was, this takes microseconds. What is not seen:
    an optimizer whose `loss_scale_factor` is set after that, and what `gc.freeze` has set aside.
    """
    global _seen
    classes = _classes()
    if _seen is not None and _seen.holds(classes):
        return None
    living = _living(classes)
    if any(map(scales_losses, living)):
        # It may be gone, but for the garbage collector.
        del living
        gc.collect()
        living = _living(classes)
    for optimizer in living:
        if scales_losses(optimizer):
            return type(optimizer).__name__
    _seen = _Seen(classes, living)
    return None


class _Seen:
    """A look that found optimizers which scale nothing, or none.

    Every object refers to its class, and hardly anything else comes to do so.
    """

    def __init__(self, classes: set[type], harmless: list[Any]) -> None:
        self._harmless = weakref.WeakSet(harmless)
        self._others = _references(classes) - len(self._harmless)

    def holds(self, classes: set[type]) -> bool:
        """Returns whether there are still no others."""
        return _references(classes) - len(self._harmless) == self._others


def _classes() -> set[type]:
    """Returns the classes of optimizers that may scale losses: in Keras 3, all."""
    base = keras.mixed_precision.LossScaleOptimizer
    waiting = [base if uses_legacy_keras() else keras.optimizers.Optimizer]
    found: set[type] = set()
    while waiting:
        kind = waiting.pop()
        found.add(kind)
        waiting.extend(type.__subclasses__(kind))
    return found


def _living(classes: set[type]) -> list[Any]:
    # Not by isinstance, which asks proxies for what they stand for.
    return [thing for thing in gc.get_objects() if type(thing) in classes]


def _references(classes: set[type]) -> int:
    return sum(map(sys.getrefcount, classes))


_seen: _Seen | None = None
