"""What the optimizer of a Keras model does that its tables follow, and what they cannot follow."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from tf_dlrm.embeddings.config import TableConfig
from tf_dlrm.embeddings.schedules import LearningRateSchedule, rates_scaled
from tf_dlrm.internals import ResourceVariable
from tf_dlrm.keras_api import keras
from tf_dlrm.keras_internals import decays
from tf_dlrm.layers.loss_scales import kind_of_living, scales_losses

# What Keras's optimizers do with gradients and weights besides their rule; tables have neither.
_NOT_FOLLOWED = (
    "clipnorm",
    "clipvalue",
    "global_clipnorm",
    "gradient_accumulation_steps",
    "gradient_transformers",
    "use_ema",
    "weight_decay",
)

# A reference rate and iterations where there are none to save.
_NOTHING = (0.0, -1.0)

_FIRST_STEP = (
    "The tables of layer '%s' follow the learning rate of the model's %s: their own rates hold at "
    "its rate in this first step, %g. If a callback has changed that already, call "
    "follow(optimizer, reference_rate) on the layer with the rate before."
)


@dataclasses.dataclass(frozen=True)
class FollowedOptimizer:
    """A Keras optimizer, whose learning rate tables follow.

    Attributes:
        optimizer: The optimizer.
        reference_rate: Its learning rate at which the tables' own rates hold.
    """

    optimizer: Any
    reference_rate: float

    def scale(self) -> tf.Tensor:
        """Returns by what the tables' own rates are multiplied now, a float32 scalar."""
        rate = tf.cast(tf.convert_to_tensor(self.optimizer.learning_rate), tf.float32)
        return rate / self.reference_rate


class TableRates:
    """Which Keras optimizer the tables of a layer follow, if any.

    Attributes:
        followed: The optimizer, or None.
        saved: What files take and give back: the reference rate and the optimizer's iterations.
    """

    def __init__(self, layer: str, tables: Sequence[TableConfig]) -> None:
        """Follows none; `layer` is the name of the layer, for errors."""
        self.followed: FollowedOptimizer | None = None
        self._layer = layer
        self._tables = tuple(tables)
        self._follows_models = True
        # One layer may be in several models, which train it by turns.
        self._of_models: list[FollowedOptimizer] = []
        # The iterations tell whether an optimizer was restored together with the tables: one that
        # was not has a learning rate of its own, and the reference rate of another says nothing.
        with tf.init_scope(), tf.device("CPU:0"):
            self.saved = ResourceVariable(
                _NOTHING, trainable=False, dtype=tf.float64, name="followed"
            )
        # What it holds unless something was restored since.
        self._known = _NOTHING

    def to_save(self) -> tf.Variable | None:
        """Returns `saved` with what is true now; None where nothing is to be saved."""
        self.settle()
        if self.followed is not None and self._held() == self._known:
            steps = _iterations(self.followed.optimizer)
            self._know((self.followed.reference_rate, float(steps)) if steps else _NOTHING)
        return self.saved if self._held()[1] > 0 else None

    def settle(self, begins: bool = False) -> None:
        """Takes the reference rate that was restored since, if the optimizer was too.

        Args:
            begins: Whether training begins now, and what is not restored yet never will be.
        """
        if self.followed is None or self._held() == self._known:
            return
        reference_rate = self._restored(self.followed.optimizer)
        if begins or reference_rate is not None:
            self._known = self._held()
        if reference_rate is not None:
            before = self.followed
            self.followed = FollowedOptimizer(before.optimizer, reference_rate)
            self._of_models = [self.followed if f is before else f for f in self._of_models]

    def changed_rate(self) -> tuple[float, float] | None:
        """Returns the reference rate and the optimizer's now, or None where they are equal."""
        self.settle()
        if self.followed is None:
            return None
        rates = (self.followed.reference_rate, _rate(self.followed.optimizer) or 0.0)
        return None if np.float32(rates[0]) == np.float32(rates[1]) else rates

    def _held(self) -> tuple[float, float]:
        with tf.init_scope():
            reference_rate, iterations = self.saved.numpy().tolist()
        return reference_rate, iterations

    def _know(self, held: tuple[float, float]) -> None:
        with tf.init_scope():
            self.saved.assign(held)
        self._known = held

    def _restored(self, optimizer: Any) -> float | None:
        """Returns the reference rate that was restored together with an optimizer, or None."""
        held = self._held()
        together = held != self._known and held[1] == _iterations(optimizer)
        return held[0] if together else None

    def follow(self, optimizer: Any, reference_rate: float | None, trap: Any) -> None:
        """See `EmbeddingCollection.follow`; `trap` is the weight that the optimizer trains."""
        self._follows_models = False
        self.followed = None
        if optimizer is not None:
            self.followed = self._checked(optimizer, reference_rate, trap)

    def follow_model(self, optimizer: Any, reference_rate: float | None, trap: Any) -> None:
        """See `EmbeddingCollection.follow_model`."""
        _check_no_loss_scale(optimizer, self._layer)
        if self._follows_models and not self._follows_again(optimizer):
            self.followed = self._checked(optimizer, reference_rate, trap)
            if self.followed is not None:
                self._of_models.append(self.followed)
        self.settle(begins=True)

    def of_update(self, callers: Sequence[Any], trap: Any) -> AbstractContextManager[None]:
        """Returns the context in which tables are updated.

        Args:
            callers: The layers and models that called the layer, the outermost last.
            trap: As of `follow`.

        Raises:
            ValueError: If the loss is scaled, or may be and nothing tells, or as `follow`.
        """
        optimizer = _optimizer_of(callers)
        if optimizer is None:
            if self.followed is None:
                _check_no_float16(callers, self._layer)
                if self._follows_models:
                    _check_no_unknown_loss_scale(self._layer)
        elif not self._follows_again(optimizer):
            restored = self._restored(optimizer)
            self.follow_model(optimizer, None, trap)
            if restored is None and self._follows_again(optimizer):
                logging.warning(_FIRST_STEP, self._layer, _kind(optimizer), _rate(optimizer))
        self.settle(begins=True)
        return rates_scaled(None if self.followed is None else self.followed.scale())

    def _follows_again(self, optimizer: Any) -> bool:
        """Returns whether the optimizer is the one to follow, which it is again if it ever was."""
        if self._follows_models:
            known = [entry for entry in self._of_models if entry.optimizer is optimizer]
            self.followed = known[0] if known else self.followed
        return self.followed is not None and self.followed.optimizer is optimizer

    def _checked(
        self, optimizer: Any, reference_rate: float | None, trap: Any
    ) -> FollowedOptimizer | None:
        """Returns what to follow; None if the rate is a schedule and so are all tables' own."""
        what = f"The {_kind(optimizer)} that trains layer '{self._layer}'"
        _check_no_loss_scale(optimizer, self._layer)
        for name in _NOT_FOLLOWED:
            value = getattr(optimizer, name, None)
            if not value or (name == "weight_decay" and not decays(optimizer, trap)):
                continue
            instead = f"leave {name} out"
            if name == "weight_decay":
                instead += ", call its exclude_from_weight_decay(var_names=['trap'])"
            raise ValueError(
                f"{what} has {name}={value}, which cannot act on tables: they are updated during "
                f"the backward pass, by optimizers of their own. Either {instead}, or call "
                "follow(None) on the layer, and its tables do without."
            )
        if _has_schedule(optimizer):
            names = [table.name for table in self._tables if _has_constant_rate(table)]
            if not names:
                return None
            raise ValueError(
                f"{what} has a schedule as its learning rate, which tables cannot follow, since "
                f"they count their own updates. Give the tables {names} a LearningRateSchedule "
                "(LearningRateSchedule(0.05) stays at 0.05), or call follow(None) on the layer."
            )
        rate = self._restored(optimizer) if reference_rate is None else reference_rate
        rate = _rate(optimizer) if rate is None else rate
        if rate is None or not 0.0 < rate < float("inf"):
            raise ValueError(
                f"{what} has the learning rate {rate}, but tables can only follow one that is "
                "above 0. Call follow(optimizer, reference_rate) on the layer, with the rate at "
                "which the tables' own rates hold, or follow(None), and they keep their own rates."
            )
        self._know(_NOTHING)
        return FollowedOptimizer(optimizer, rate)


def _check_no_loss_scale(optimizer: Any, layer: str) -> None:
    """Refuses an optimizer that scales the loss."""
    if scales_losses(optimizer):
        raise ValueError(
            f"Layer '{layer}' cannot be trained by {_kind(optimizer)}, which scales the "
            "loss: tables are updated during the backward pass, when gradients still have the "
            "scale, for example 32768. Train in float32 or mixed_bfloat16, without a loss scale."
        )


def _check_no_float16(layers: Sequence[Any], layer: str) -> None:
    """Refuses float16 around a layer where no optimizer tells whether the loss is scaled."""
    for place, policy in [
        *((f"'{owner.name}'", owner) for owner in layers),
        ("the global dtype policy", keras.mixed_precision.global_policy()),
    ]:
        if getattr(policy, "compute_dtype", None) == "float16":
            raise ValueError(
                f"Layer '{layer}' is trained in float16, that of {place}, where losses are scaled: "
                "the scale would be part of the tables' updates. Train in float32 or "
                "mixed_bfloat16. Or, if your loss is not scaled, call follow(optimizer) on the "
                "layer with the optimizer of your loop."
            )


def _check_no_unknown_loss_scale(layer: str) -> None:
    """Refuses a loop whose optimizer is not known where one exists that scales losses."""
    kind = kind_of_living()
    if kind is not None:
        raise ValueError(
            f"Layer '{layer}' is trained in a loop whose optimizer it does not know, and this "
            f"process has a {kind}, which scales losses: the scale, for example 32768, would be "
            "part of the tables' updates. Call follow(optimizer) on the layer with the optimizer "
            "of your loop, or, if the loss that trains this layer is not scaled, follow(None)."
        )


def _optimizer_of(layers: Sequence[Any]) -> Any:
    """Returns the optimizer of the outermost model that has one, or None."""
    found = None
    for layer in layers:
        optimizer = getattr(layer, "optimizer", None)
        if isinstance(layer, keras.Model) and hasattr(optimizer, "apply_gradients"):
            found = optimizer
    return found


def _kind(optimizer: Any) -> str:
    return type(optimizer).__name__


def _has_constant_rate(table: TableConfig) -> bool:
    own = table.optimizer
    return own.follows_rates and not isinstance(own.learning_rate, LearningRateSchedule)


def _has_schedule(optimizer: Any) -> bool:
    """Returns whether the learning rate changes with the step, and not by assignment."""
    with tf.init_scope():
        config = optimizer.get_config()
    # Keras serializes schedules and functions as dicts; `decay` is a schedule of old optimizers.
    return isinstance(config.get("learning_rate"), Mapping) or bool(config.get("decay"))


def _iterations(optimizer: Any) -> int | None:
    """Returns how many steps an optimizer has made."""
    value = getattr(optimizer, "iterations", None)
    if value is None:
        return None
    with tf.init_scope():
        return int(tf.convert_to_tensor(value))


def _rate(optimizer: Any) -> float | None:
    try:
        value = optimizer.learning_rate
    except (AttributeError, ValueError):
        return None
    if value is None:
        return None
    with tf.init_scope():
        return float(tf.convert_to_tensor(value))
