"""What all row-sparse optimizers share: a rule for one row, and the forms that follow from it."""

import abc
import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import tensorflow as tf

from tf_dlrm.embeddings.schedules import LearningRateSchedule, scale_of_rates
from tf_dlrm.errors import check_at_least_zero

Slots = dict[str, tf.Tensor]
# Rows and slots.
Updated = tuple[tf.Tensor, Slots]


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
    """A rule that says what one update makes of a row and its slots.

    A subclass is a frozen dataclass of the rule's numbers, and has `rule` and `slots`. What updates
    some rows of a variable (`apply`) and what updates whole small tables (`apply_dense`) follow
    from them. Where `native` is set, `rules.h` of the kernels has the same rule in C++.

    Attributes:
        learning_rate: A float, or a schedule over the number of updates made.
        native: Whether there is a native form of the rule, under the name of the class. It is not
            inherited, since a subclass may have another rule.
        follows_rates: Whether the rate may be scaled by an optimizer outside.
    """

    learning_rate: float | LearningRateSchedule
    native: ClassVar[bool] = False
    follows_rates: ClassVar[bool] = True

    def __init_subclass__(cls) -> None:
        cls.native = cls.__dict__.get("native", False)

    def __post_init__(self) -> None:
        if isinstance(self.learning_rate, LearningRateSchedule):
            return
        if isinstance(self.learning_rate, bool) or not isinstance(self.learning_rate, int | float):
            raise ValueError(
                "learning_rate must be a float or a LearningRateSchedule, but is "
                f"{self.learning_rate!r}."
            )
        check_at_least_zero(self, "learning_rate")

    @property
    def slots(self) -> tuple[SlotSpec, ...]:
        """The slots that the optimizer keeps, in the order of the paper's symbols."""
        return ()

    @abc.abstractmethod
    def rule(self, row: tf.Tensor, slots: Slots, gradient: tf.Tensor, rate: tf.Tensor) -> Updated:
        """Returns what one update makes of rows and their slots, in arithmetic that XLA compiles.

        Args:
            row: float32 [n, dim], one row each.
            slots: By name, float32 [n, dim], or [n, 1] where row-wise.
            gradient: float32 [n, dim], for each row the sum of its gradients.
            rate: float32 scalar, that of `rate`.

        Returns:
            The new rows and slots, of the same shapes.
        """

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

    def numbers(self) -> dict[str, float]:
        """Returns the numbers of the rule by name, in the order that its native form knows."""
        fields = dataclasses.asdict(self)
        del fields["learning_rate"]
        return fields

    def apply(
        self,
        table: tf.Variable,
        slots: Mapping[str, tf.Variable],
        ids: tf.Tensor,
        gradients: tf.Tensor,
        step: tf.Tensor,
        shared: bool = False,
    ) -> None:
        """Updates the rows `ids` of `table` and of `slots` once each, which alone are read.

        After a scatter, TensorFlow's ReadVariableOp would copy a whole variable.

        Args:
            table: Resource variable [rows, dim].
            slots: By name, resource variables [rows, dim], or [rows] where row-wise.
            ids: Integer tensor [n] of rows, repeats allowed, all in range.
            gradients: float32 tensor [n, dim].
            step: Scalar int64, the number of updates made before this one.
            shared: Whether other workers may update the same rows at the same time; then none of
                these updates is lost.
        """
        unique, index = tf.unique(ids, out_idx=tf.int32)
        summed = tf.math.unsorted_segment_sum(gradients, index, tf.size(unique))
        row = tf.gather(table, unique)
        own = {spec.name: tf.gather(slots[spec.name], unique) for spec in self.slots}
        new_row, new = self._updated(row, own, summed, step)
        _write(table, unique, row, new_row, shared)
        for name, value in new.items():
            _write(slots[name], unique, own[name], value, shared)

    def apply_dense(
        self,
        table: tf.Tensor,
        slots: Mapping[str, tf.Tensor],
        gradient: tf.Tensor,
        touched: tf.Tensor,
        step: tf.Tensor,
    ) -> Updated:
        """Returns a whole table and its slots after one update; XLA can compile it.

        Args:
            table: float32 [rows, dim].
            slots: By name, float32 [rows, dim], or [rows] where row-wise.
            gradient: float32 [rows, dim], summed over equal ids.
            touched: bool [rows]; all other rows stay as they are, their slots too.
            step: Scalar integer, the number of updates made before this one.
        """
        row, new = self._updated(table, slots, gradient, step)
        of_row = touched[:, tf.newaxis]
        return tf.where(of_row, row, table), {
            spec.name: tf.where(
                touched if spec.row_wise else of_row, new[spec.name], slots[spec.name]
            )
            for spec in self.slots
        }

    def _updated(
        self, row: tf.Tensor, slots: Mapping[str, tf.Tensor], gradient: tf.Tensor, step: tf.Tensor
    ) -> Updated:
        """Applies the rule to slots of which those that are row-wise are [n]."""
        row_wise = [spec.name for spec in self.slots if spec.row_wise]
        columns = {name: tf.expand_dims(slots[name], 1) for name in row_wise}
        row, new = self.rule(row, {**slots, **columns}, gradient, self.rate(step))
        return row, {**new, **{name: tf.squeeze(new[name], 1) for name in row_wise}}


def _write(
    variable: tf.Variable, ids: tf.Tensor, old: tf.Tensor, new: tf.Tensor, shared: bool
) -> None:
    if shared:
        variable.scatter_add(tf.IndexedSlices(new - old, ids))
    else:
        variable.scatter_update(tf.IndexedSlices(new, ids))
