"""FTRL-proximal."""

import dataclasses

import tensorflow as tf

from tf_dlrm.embeddings.optimizers.optimizer import Optimizer, Slots, SlotSpec, Updated
from tf_dlrm.embeddings.schedules import LearningRateSchedule
from tf_dlrm.errors import check_at_least_zero


@dataclasses.dataclass(frozen=True)
class FTRL(Optimizer):
    """FTRL-proximal as TensorFlow's.

    n' = n + g^2; sigma = (n'^-p - n^-p) / learning_rate with p = learning_rate_power;
    z += g - sigma * row; n = n';
    row = (sign(z) l1 - z) / (n^-p / learning_rate + beta / learning_rate + 2 l2) where |z| > l1,
    else 0.

    The rate must not change: a row is a closed form of it, so a schedule would rescale the rows.

    Attributes:
        learning_rate_power: At most 0; -0.5 is the root of the paper.
        l1: L1 strength.
        l2: L2 strength.
        initial_accumulator: First value of n.
        beta: The paper's beta.

    References:
        McMahan et al., Ad Click Prediction, KDD 2013, algorithm 1.
    """

    learning_rate_power: float = -0.5
    l1: float = 0.0
    l2: float = 0.0
    initial_accumulator: float = 0.1
    beta: float = 0.0
    native = True
    follows_rates = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least_zero(self, "l1", "l2", "initial_accumulator", "beta")
        if not -float("inf") < self.learning_rate_power <= 0.0:
            raise ValueError(
                f"learning_rate_power must be at most 0, but is {self.learning_rate_power}."
            )
        rate = self.learning_rate
        if isinstance(rate, LearningRateSchedule):
            if not rate.is_constant:
                raise ValueError(
                    f"FTRL cannot follow a schedule, but learning_rate is {rate}. Its rows are a "
                    "closed form of the rate, so a new rate would rescale every row it touches. "
                    "Give a float, or take Adagrad, which can follow a schedule."
                )
            rate = rate.base_rate
        # As float32, where a smaller number is 0 or has few digits.
        if rate < 2.0**-126:
            raise ValueError(
                f"FTRL divides by learning_rate, so it must be above 0, but is {rate}."
            )

    @property
    def slots(self) -> tuple[SlotSpec, ...]:
        """The sum of squares n and the linear term z, per element."""
        return (
            SlotSpec("accumulator", False, self.initial_accumulator),
            SlotSpec("linear", False, 0.0),
        )

    def _scaled(self, rate: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
        message = (
            "The learning rate of the model's optimizer has changed, which tables trained by FTRL "
            "cannot follow: a new rate would rescale every row it touches. Take Adagrad for these "
            "tables, or call follow(None) on their layer, and all its tables keep their own rates."
        )
        with tf.control_dependencies([tf.debugging.assert_equal(scale, 1.0, message)]):
            return tf.identity(rate)

    def rule(self, row: tf.Tensor, slots: Slots, gradient: tf.Tensor, rate: tf.Tensor) -> Updated:
        """See `Optimizer.rule`."""
        total = slots["accumulator"] + tf.square(gradient)
        before, after = self._power(slots["accumulator"]), self._power(total)
        linear = slots["linear"] + gradient - (after - before) / rate * row
        denominator = (after + self.beta) / rate + 2.0 * self.l2
        row = tf.where(
            tf.abs(linear) > self.l1,
            (tf.sign(linear) * self.l1 - linear) / denominator,
            tf.zeros_like(linear),
        )
        return row, {"accumulator": total, "linear": linear}

    def _power(self, total: tf.Tensor) -> tf.Tensor:
        power = -self.learning_rate_power
        return tf.sqrt(total) if power == 0.5 else total**power
