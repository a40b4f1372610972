"""Adam on the rows that are looked up."""

import dataclasses
import math

import tensorflow as tf

from tf_dlrm.embeddings.optimizers.optimizer import Optimizer, Slots, SlotSpec, Updated
from tf_dlrm.errors import check_at_least_zero


@dataclasses.dataclass(frozen=True)
class LazyAdam(Optimizer):
    """Adam on the looked-up rows; the moments of all other rows stay as they are.

    With t the updates made by the placement, this one included (one count for all tables, not one
    per row): m = beta_1 m + (1 - beta_1) g; v = beta_2 v + (1 - beta_2) g^2;
    row -= learning_rate * sqrt(1 - beta_2^t) / (1 - beta_1^t) * m / (sqrt(v) + epsilon).

    Attributes:
        beta_1: Decay of the first moment.
        beta_2: Decay of the second moment.
        epsilon: Added outside the root.

    References:
        Kingma, Ba, arXiv 1412.6980, end of section 2 (the reordered form).
    """

    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    native = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least_zero(self, "epsilon")
        for name in ("beta_1", "beta_2"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} must be in [0, 1), but is {getattr(self, name)}.")

    @property
    def slots(self) -> tuple[SlotSpec, ...]:
        """Two moments per element."""
        return (SlotSpec("m", False, 0.0), SlotSpec("v", False, 0.0))

    def rate(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the float32 rate of update number `step`, corrected for the first steps."""
        # Without float64, which a TPU only emulates; beyond 2^24 t has an error as all float32.
        t = tf.cast(step + 1, tf.float32)
        first = _one_minus_power(self.beta_1, t)
        second = _one_minus_power(self.beta_2, t)
        return super().rate(step) * tf.sqrt(second) / first

    def rule(self, row: tf.Tensor, slots: Slots, gradient: tf.Tensor, rate: tf.Tensor) -> Updated:
        """See `Optimizer.rule`."""
        m = self.beta_1 * slots["m"] + (1.0 - self.beta_1) * gradient
        v = self.beta_2 * slots["v"] + (1.0 - self.beta_2) * tf.square(gradient)
        return row - rate * m / (tf.sqrt(v) + self.epsilon), {"m": m, "v": v}


def _one_minus_power(beta: float, t: tf.Tensor) -> tf.Tensor:
    """Returns 1 - beta ** t, which computed like that has few digits left while t is small."""
    return tf.constant(1.0) if beta == 0 else -tf.math.expm1(t * math.log(beta))
