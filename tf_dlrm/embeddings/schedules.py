"""The learning rate as a function of the step: warm-up, constant, polynomial decay; and a scale.

The scale is that of an optimizer outside, whose changes the rates of tables follow.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from tf_dlrm.errors import check_at_least_zero, check_whole

_scale: contextvars.ContextVar[tf.Tensor | None] = contextvars.ContextVar("scale", default=None)


@contextlib.contextmanager
def rates_scaled(scale: tf.Tensor | None) -> Iterator[None]:
    """Updates that are made within multiply their learning rates by `scale`, a float32 scalar."""
    token = _scale.set(scale)
    try:
        yield
    finally:
        _scale.reset(token)


def scale_of_rates() -> tf.Tensor | None:
    """Returns by what learning rates are multiplied here; None for not at all."""
    return _scale.get()


@dataclasses.dataclass(frozen=True)
class LearningRateSchedule:
    """Linear warm-up to `base_rate`, then constant, then polynomial decay to `final_rate`.

    With s the number of updates already made (0 at the first update):

    - s < warmup_steps: `base_rate * (s + 1) / warmup_steps`, which ends at the base rate;
    - up to decay_start_step: `base_rate`;
    - from there, t = min((s - decay_start_step) / decay_steps, 1):
      `final_rate + (base_rate - final_rate) * (1 - t) ** power`, which is `final_rate` from step
      decay_start_step + decay_steps on.

    Attributes:
        base_rate: The learning rate between warm-up and decay.
        warmup_steps: Number of warm-up steps; 0 is no warm-up.
        decay_start_step: The step at which the decay starts, still at `base_rate`.
        decay_steps: Number of steps from `base_rate` to `final_rate`; 0 is no decay.
        power: Exponent of the decay; 2 as in the paper's code.
        final_rate: The learning rate after the decay.

    Example:
        >>> schedule = LearningRateSchedule(24.0, warmup_steps=2750, decay_start_step=49315,
        ...                                 decay_steps=27772)
        >>> float(schedule(2749))
        24.0
    """

    base_rate: float
    warmup_steps: int = 0
    decay_start_step: int = 0
    decay_steps: int = 0
    power: float = 2.0
    final_rate: float = 0.0

    def __post_init__(self) -> None:
        check_at_least_zero(self, "base_rate", "final_rate")
        for field in ("warmup_steps", "decay_start_step", "decay_steps"):
            check_whole(field, getattr(self, field), 0)
        if self.decay_steps and self.decay_start_step < self.warmup_steps:
            raise ValueError(
                f"The decay must not start before the warm-up ends, but decay_start_step is "
                f"{self.decay_start_step} and warmup_steps is {self.warmup_steps}."
            )
        if not 0.0 < self.power < float("inf"):
            raise ValueError(f"power must be a finite number above 0, but is {self.power}.")

    @property
    def is_constant(self) -> bool:
        """Whether every update has the same rate."""
        decays = self.decay_steps > 0 and self.final_rate != self.base_rate
        return not decays and self.warmup_steps <= 1

    def __call__(self, step: tf.Tensor | tf.Variable | int) -> tf.Tensor:
        """Returns the learning rate of the update number `step`.

        Args:
            step: Scalar integer, the number of updates made before this one.

        Returns:
            A float32 scalar.
        """
        # Integers until the last moment: float32 cannot count beyond 2 ** 24 steps.
        step = tf.cast(step, tf.int64)
        base = tf.constant(self.base_rate, tf.float32)
        rate = base
        if self.decay_steps:
            done = tf.clip_by_value(step - self.decay_start_step, 0, self.decay_steps)
            left = tf.cast(self.decay_steps - done, tf.float32) / float(self.decay_steps)
            final = tf.constant(self.final_rate, tf.float32)
            rate = tf.where(done > 0, final + (base - final) * left**self.power, base)
        if self.warmup_steps:
            part = tf.cast(step + 1, tf.float32) / float(self.warmup_steps)
            rate = tf.where(step + 1 < self.warmup_steps, base * part, rate)
        return rate

    def to_dict(self) -> dict[str, Any]:
        """Returns a dict that `json.dumps` accepts and `from_dict` takes back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LearningRateSchedule":
        """Returns the schedule that `to_dict` described."""
        return cls(**values)
