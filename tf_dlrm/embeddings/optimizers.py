"""Row-sparse optimizers: one update touches the looked-up rows and no others.

Exact semantics, the same for every optimizer and placement: the gradients of equal ids are summed
first, then each row is updated once, and epsilon is added outside the root. All of it is plain
TensorFlow on resource variables: rows are gathered and scattered, and the variable is never read
as a whole, because after a scatter TensorFlow's ReadVariableOp copies it.
"""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tf_dlrm.embeddings.schedules import LearningRateSchedule, scale_of_rates


@dataclasses.dataclass(frozen=True)
class SlotSpec:
    """One state of an optimizer, kept for every row.

    Attributes:
        name: Name of the slot, also its name in checkpoints.
        row_wise: True for one number per row, False for one per element.
        initial_value: First value of every number.
    """

    name: str
    row_wise: bool
    initial_value: float


@dataclasses.dataclass(frozen=True)
class Optimizer(abc.ABC):
    """What all row-sparse optimizers share.

    Attributes:
        learning_rate: A float, or a schedule over the number of updates made.
    """

    learning_rate: float | LearningRateSchedule

    def __post_init__(self) -> None:
        if isinstance(self.learning_rate, LearningRateSchedule):
            return
        if isinstance(self.learning_rate, bool) or not isinstance(self.learning_rate, int | float):
            raise ValueError(
                "learning_rate must be a float or a LearningRateSchedule, but is "
                f"{self.learning_rate!r}."
            )
        if not 0.0 <= self.learning_rate < float("inf"):
            raise ValueError(
                f"learning_rate must be a finite number of at least 0, but is {self.learning_rate}."
            )

    @property
    def slots(self) -> tuple[SlotSpec, ...]:
        """The slots that the optimizer keeps, in the order of the paper's symbols."""
        return ()

    def rate(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the float32 learning rate of update number `step` (0 is the first)."""
        if isinstance(self.learning_rate, LearningRateSchedule):
            rate = self.learning_rate(step)
        else:
            rate = tf.constant(self.learning_rate, tf.float32)
        scale = scale_of_rates()
        return rate if scale is None else self._scaled(rate, scale)

    def _scaled(self, rate: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
        return rate * scale

    def apply(
        self,
        table: tf.Variable,
        slots: Mapping[str, tf.Variable],
        ids: tf.Tensor,
        gradients: tf.Tensor,
        step: tf.Tensor,
    ) -> None:
        """Updates the rows `ids` of `table` and of `slots` once each.

        Args:
            table: Resource variable [rows, dim].
            slots: By name, resource variables [rows, dim], or [rows] where row-wise.
            ids: Integer tensor [n] of rows, repeats allowed, all in range.
            gradients: float32 tensor [n, dim].
            step: Scalar int64, the number of updates made before this one.
        """
        unique, index = tf.unique(ids, out_idx=tf.int32)
        summed = tf.math.unsorted_segment_sum(gradients, index, tf.size(unique))
        self._apply_unique(table, slots, unique, summed, step)

    @abc.abstractmethod
    def _apply_unique(
        self,
        table: tf.Variable,
        slots: Mapping[str, tf.Variable],
        ids: tf.Tensor,
        gradients: tf.Tensor,
        step: tf.Tensor,
    ) -> None:
        """Updates distinct rows."""


@dataclasses.dataclass(frozen=True)
class SGD(Optimizer):
    """row -= learning_rate * g."""

    def apply(
        self,
        table: tf.Variable,
        slots: Mapping[str, tf.Variable],
        ids: tf.Tensor,
        gradients: tf.Tensor,
        step: tf.Tensor,
    ) -> None:
        """Subtracts every gradient; the sum over equal ids happens in the table."""
        self._apply_unique(table, slots, ids, gradients, step)

    def _apply_unique(
        self,
        table: tf.Variable,
        slots: Mapping[str, tf.Variable],
        ids: tf.Tensor,
        gradients: tf.Tensor,
        step: tf.Tensor,
    ) -> None:
        table.scatter_sub(tf.IndexedSlices(self.rate(step) * gradients, ids))


@dataclasses.dataclass(frozen=True, repr=False)
class Frozen(Optimizer):
    """Rows are looked up and stay as they are.

    Attributes:
        learning_rate: 0.
    """

    learning_rate: float | LearningRateSchedule = 0.0

    def __post_init__(self) -> None:
        if self.learning_rate != 0.0:
            raise ValueError(f"learning_rate of Frozen must be 0, but is {self.learning_rate}.")

    def __repr__(self) -> str:
        return "Frozen()"

    def apply(
        self,
        table: tf.Variable,
        slots: Mapping[str, tf.Variable],
        ids: tf.Tensor,
        gradients: tf.Tensor,
        step: tf.Tensor,
    ) -> None:
        """Does nothing."""

    def _apply_unique(
        self,
        table: tf.Variable,
        slots: Mapping[str, tf.Variable],
        ids: tf.Tensor,
        gradients: tf.Tensor,
        step: tf.Tensor,
    ) -> None:
        """Does nothing."""


def _check_at_least_zero(**values: float) -> None:
    for name, value in values.items():
        if not 0.0 <= value < float("inf"):
            raise ValueError(f"{name} must be a finite number of at least 0, but is {value}.")


@dataclasses.dataclass(frozen=True)
class Adagrad(Optimizer):
    """accumulator += g^2; row -= learning_rate * g / (sqrt(accumulator) + epsilon).

    Attributes:
        initial_accumulator: First value of the accumulator; 0 as in PyTorch and the paper's code.
        epsilon: Added outside the root.

    References:
        Duchi, Hazan, Singer, JMLR 12 (2011).
    """

    initial_accumulator: float = 0.0
    epsilon: float = 1e-10

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_at_least_zero(initial_accumulator=self.initial_accumulator, epsilon=self.epsilon)

    @property
    def slots(self) -> tuple[SlotSpec, ...]:
        """One accumulator per element."""
        return (SlotSpec("accumulator", False, self.initial_accumulator),)

    def _apply_unique(
        self,
        table: tf.Variable,
        slots: Mapping[str, tf.Variable],
        ids: tf.Tensor,
        gradients: tf.Tensor,
        step: tf.Tensor,
    ) -> None:
        tf.raw_ops.ResourceSparseApplyAdagradV2(
            var=table.handle,
            accum=slots["accumulator"].handle,
            lr=self.rate(step),
            epsilon=tf.constant(self.epsilon, tf.float32),
            grad=gradients,
            indices=ids,
        )


@dataclasses.dataclass(frozen=True)
class RowWiseAdagrad(Optimizer):
    """Adagrad with one accumulator per row: accumulator += mean over the columns of g^2.

    Attributes:
        initial_accumulator: First value of the accumulator.
        epsilon: Added outside the root.
    """

    initial_accumulator: float = 0.0
    epsilon: float = 1e-10

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_at_least_zero(initial_accumulator=self.initial_accumulator, epsilon=self.epsilon)

    @property
    def slots(self) -> tuple[SlotSpec, ...]:
        """One accumulator per row."""
        return (SlotSpec("accumulator", True, self.initial_accumulator),)

    def _apply_unique(
        self,
        table: tf.Variable,
        slots: Mapping[str, tf.Variable],
        ids: tf.Tensor,
        gradients: tf.Tensor,
        step: tf.Tensor,
    ) -> None:
        slot = slots["accumulator"]
        total = tf.gather(slot, ids) + tf.reduce_mean(tf.square(gradients), 1)
        slot.scatter_update(tf.IndexedSlices(total, ids))
        factor = self.rate(step) / (tf.sqrt(total) + self.epsilon)
        table.scatter_sub(tf.IndexedSlices(factor[:, tf.newaxis] * gradients, ids))


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

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_at_least_zero(epsilon=self.epsilon)
        for name in ("beta_1", "beta_2"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} must be in [0, 1), but is {getattr(self, name)}.")

    @property
    def slots(self) -> tuple[SlotSpec, ...]:
        """Two moments per element."""
        return (SlotSpec("m", False, 0.0), SlotSpec("v", False, 0.0))

    def _apply_unique(
        self,
        table: tf.Variable,
        slots: Mapping[str, tf.Variable],
        ids: tf.Tensor,
        gradients: tf.Tensor,
        step: tf.Tensor,
    ) -> None:
        m = self.beta_1 * tf.gather(slots["m"], ids) + (1.0 - self.beta_1) * gradients
        v = self.beta_2 * tf.gather(slots["v"], ids) + (1.0 - self.beta_2) * tf.square(gradients)
        slots["m"].scatter_update(tf.IndexedSlices(m, ids))
        slots["v"].scatter_update(tf.IndexedSlices(v, ids))
        rate = self.rate(step) * adam_correction(self, step)
        table.scatter_sub(tf.IndexedSlices(rate * m / (tf.sqrt(v) + self.epsilon), ids))


def adam_correction(optimizer: LazyAdam, step: tf.Tensor) -> tf.Tensor:
    """Returns by what Adam's learning rate is multiplied in update number `step`, float32."""
    # float64, because 1 - beta_2 ** t has few digits left in float32 at small t.
    t = tf.cast(step + 1, tf.float64)
    correction = tf.sqrt(1.0 - tf.constant(optimizer.beta_2, tf.float64) ** t) / (
        1.0 - tf.constant(optimizer.beta_1, tf.float64) ** t
    )
    return tf.cast(correction, tf.float32)


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

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_at_least_zero(
            l1=self.l1, l2=self.l2, initial_accumulator=self.initial_accumulator, beta=self.beta
        )
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

    def _apply_unique(
        self,
        table: tf.Variable,
        slots: Mapping[str, tf.Variable],
        ids: tf.Tensor,
        gradients: tf.Tensor,
        step: tf.Tensor,
    ) -> None:
        rate = self.rate(step)
        tf.raw_ops.ResourceSparseApplyFtrl(
            var=table.handle,
            accum=slots["accumulator"].handle,
            linear=slots["linear"].handle,
            grad=gradients,
            indices=ids,
            lr=rate,
            l1=tf.constant(self.l1, tf.float32),
            # The op knows no beta; beta / rate in the denominator is an l2 of half of it.
            l2=self.l2 + self.beta / (2.0 * rate),
            lr_power=tf.constant(self.learning_rate_power, tf.float32),
        )


_KINDS: Mapping[str, type[Optimizer]] = {
    kind.__name__: kind for kind in (SGD, Adagrad, RowWiseAdagrad, LazyAdam, FTRL, Frozen)
}


def optimizer_kinds() -> tuple[str, ...]:
    """Returns the names of the optimizers."""
    return tuple(_KINDS)


def optimizer_to_dict(optimizer: Optimizer) -> dict[str, Any]:
    """Returns a dict that `json.dumps` accepts and `optimizer_from_dict` takes back."""
    return {"kind": type(optimizer).__name__, **dataclasses.asdict(optimizer)}


def optimizer_from_dict(values: Mapping[str, Any]) -> Optimizer:
    """Returns the optimizer that `optimizer_to_dict` described.

    Raises:
        ValueError: If the kind is none of this module's.
    """
    fields = dict(values)
    kind = fields.pop("kind", None)
    if kind not in _KINDS:
        raise ValueError(f"kind of an optimizer must be one of {sorted(_KINDS)}, but is {kind!r}.")
    if isinstance(fields.get("learning_rate"), Mapping):
        fields["learning_rate"] = LearningRateSchedule.from_dict(fields["learning_rate"])
    return _KINDS[kind](**fields)
