"""Logical tables: each a [vocabulary_size, dim] tensor, wherever its rows really are."""

import abc
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tf_dlrm.embeddings.config import TableConfig
from tf_dlrm.embeddings.kernels.choice import is_saving
from tf_dlrm.embeddings.optimizers.optimizer import SlotSpec
from tf_dlrm.embeddings.stack import Stack, chunks
from tf_dlrm.internals import (
    VARIABLE_VALUE_KEY,
    ResourceVariable,
    SaveableObject,
    SaveSpec,
    SaveType,
    Trackable,
)

# The key of the table itself beside those of its slots.
ROWS = "rows"


class Slice(NamedTuple):
    """A rectangle of a table, or of a slot, that this process holds, as large as one read may be.

    Attributes:
        first_row: First row of the table.
        rows: Number of rows.
        first_column: First column of the table.
        columns: Number of columns.
        device: The device from which a checkpoint reads it.
        read: Returns float32 [rows, columns], or [rows] of a row-wise slot.
        assign: Writes such a tensor, to every copy that this process holds.
    """

    first_row: int
    rows: int
    first_column: int
    columns: int
    device: str
    read: Callable[[], tf.Tensor]
    assign: Callable[[tf.Tensor], None]


class Table(Trackable, abc.ABC):
    """One table and the slots of its optimizer, by logical rows.

    In a checkpoint it is one tensor `rows` [vocabulary_size, dim] and one for each slot, written as
    slices where it is large, and none of it depends on the placement.

    Attributes:
        config: The table's config.
        held_by_all: Whether every process that uses the table holds all of it.
    """

    held_by_all = True

    def __init__(self, config: TableConfig) -> None:
        self.config = config

    @abc.abstractmethod
    def read_rows(self, start: int = 0, count: int | None = None, slot: str = ROWS) -> tf.Tensor:
        """Returns rows of the table, or of one of its slots.

        Args:
            start: First row.
            count: Number of rows; None for all from `start` on.
            slot: "rows" for the table, else the name of a slot.

        Returns:
            float32 [count, dim], or [count] for a row-wise slot.
        """

    @abc.abstractmethod
    def assign_rows(self, values: Any, start: int = 0, slot: str = ROWS) -> None:
        """Writes rows of the table, or of one of its slots, in place.

        Args:
            values: float32 [count, dim], or [count] for a row-wise slot.
            start: First row to write.
            slot: "rows" for the table, else the name of a slot.
        """

    @abc.abstractmethod
    def slices(self, slot: str = ROWS) -> list[Slice]:
        """Returns what this process holds of the table, or of a slot, and of copies one.

        Args:
            slot: "rows" for the table, else the name of a slot.
        """

    def size(self) -> tuple[int, int]:
        """Returns the number of rows and of columns."""
        return self.config.vocabulary_size, self.config.dim

    def shape(self, slot: str = ROWS) -> tuple[int, ...]:
        """Returns the shape of the table, or of one of its slots.

        Raises:
            ValueError: If the optimizer of the table has no such slot.
        """
        size = self.size()
        if slot == ROWS:
            return size
        for spec in self.config.optimizer.slots:
            if spec.name == slot:
                return size[:1] if spec.row_wise else size
        raise ValueError(
            f"Table '{self.config.name}' has no slot '{slot}', only {list(self.keys())}."
        )

    def keys(self) -> tuple[str, ...]:
        """Returns "rows" and the names of the slots."""
        slots: Sequence[SlotSpec] = self.config.optimizer.slots
        return (ROWS, *(spec.name for spec in slots))

    def _check_range(self, start: int, count: int) -> None:
        rows = self.size()[0]
        if start < 0 or count < 0 or start + count > rows:
            raise ValueError(
                f"Rows [{start}, {start + count}) are outside table '{self.config.name}' of "
                f"{rows} rows."
            )

    def _as_rows(self, values: Any, slot: str) -> tf.Tensor:
        """Returns `values` as a tensor that can be rows of the table or of a slot."""
        values = tf.convert_to_tensor(values, tf.float32)
        shape = self.shape(slot)
        if values.shape.rank != len(shape) or values.shape[1:] != shape[1:]:
            raise ValueError(
                f"values for '{slot}' of table '{self.config.name}', which has the shape "
                f"{list(shape)}, cannot have the shape {list(values.shape)}."
            )
        return values

    def has_non_finite(self) -> bool:
        """Returns whether what this process holds of the table or a slot has a NaN or an infinity.

        It is read slice by slice.
        """
        for key in self.keys():
            for held in self.slices(key):
                with tf.device(held.device):  # rows of another machine stay there
                    finite = tf.reduce_all(tf.math.is_finite(held.read()))
                if not bool(finite):
                    return True
        return False

    def _gather_saveables_for_checkpoint(self) -> dict[str, Any]:
        """Tells tf.train.Checkpoint how to save and restore each key.

        Not by `_serialize_to_tensors`, whose restoring knows but one slice for each key.
        """
        if is_saving():  # a SavedModel has the variables that hold the rows
            return {}
        return {key: functools.partial(_Saveable, self, key) for key in self.keys()}


class _Saveable(SaveableObject):
    """One key of a table in a checkpoint: one logical tensor, in slices where it is large or cut.

    Each slice is read when it is written, so that describing a table, which restoring does too,
    copies nothing. Where several processes hold a table, each writes and reads its own slices.
    """

    def __init__(self, table: Table, key: str, name: str) -> None:
        self._table = table
        self._key = key
        self._slices = table.slices(key)
        specs = [
            SaveSpec(held.read, _slice_spec(table.shape(key), held), name, tf.float32, held.device)
            for held in self._slices
        ]
        super().__init__(None, specs, name)

    def restore(self, restored_tensors: Sequence[tf.Tensor], restored_shapes: Any) -> tf.Operation:
        """Writes the slices into the table."""
        del restored_shapes
        shape = self._table.shape(self._key)
        for held, value in zip(self._slices, restored_tensors, strict=True):
            wanted = (held.rows, held.columns)[: len(shape)]
            if value.shape.rank is None:  # read by another machine
                value = tf.ensure_shape(value, wanted)
            # A sliced tensor of another shape has been refused by TensorFlow, naming both shapes.
            if tuple(value.shape) != wanted:
                raise ValueError(
                    f"The checkpoint holds '{self._key}' of table '{self._table.config.name}' with "
                    f"the shape {list(value.shape)}, but the model's has {list(shape)}."
                )
            held.assign(value)
        return tf.no_op()


def _slice_spec(shape: Sequence[int], held: Slice) -> str:
    """Returns TensorFlow's notation for a slice of a tensor of `shape`; "" for all of it."""
    ranges = [(held.first_row, held.rows), (held.first_column, held.columns)][: len(shape)]
    if ranges == [(0, size) for size in shape]:
        return ""
    full = " ".join(str(size) for size in shape)
    return f"{full} " + ":".join(f"{first},{count}" for first, count in ranges)


class StackedTable(Table):
    """A table whose rows lie in one stack."""

    def __init__(self, config: TableConfig, stack: Stack, offset: int) -> None:
        super().__init__(config)
        self._stack = stack
        self._offset = offset

    def read_rows(self, start: int = 0, count: int | None = None, slot: str = ROWS) -> tf.Tensor:
        """See `Table.read_rows`."""
        count = self.size()[0] - start if count is None else count
        self._check_range(start, count)
        return self._stack.read(self._variable(slot), self._offset + start, count)

    def assign_rows(self, values: Any, start: int = 0, slot: str = ROWS) -> None:
        """See `Table.assign_rows`.

        Raises:
            ValueError: If the rows are not in the table or `values` are not as wide as it.
        """
        values = self._as_rows(values, slot)
        self._check_range(start, values.shape[0])
        self._stack.assign(self._variable(slot), self._offset + start, values)

    def slices(self, slot: str = ROWS) -> list[Slice]:
        """See `Table.slices`."""
        device = self._variable(slot).device
        return [
            Slice(
                start,
                count,
                0,
                self.size()[1],
                device,
                functools.partial(self.read_rows, start, count, slot),
                functools.partial(self.assign_rows, start=start, slot=slot),
            )
            for start, count in chunks(self.shape(slot))
        ]

    def _variable(self, slot: str) -> tf.Variable:
        self.shape(slot)  # raises for a slot that does not exist
        return self._stack.variable if slot == ROWS else self._stack.slots[slot]


class TableSet(Trackable):
    """The tables of a collection by name, and the number of updates that they have had.

    Not a mapping for Python's `isinstance`, on purpose: both Kerases take mappings apart when a
    layer holds one, and would find the variables.

    Attributes:
        counters: For each replica, a variable that counts the updates.
        row_variables: The variables that hold the rows of tables, slots not among them.
    """

    def __init__(
        self,
        tables: Sequence[Table],
        variables: Sequence[tf.Variable],
        counters: Sequence[tf.Variable] = (),
        row_variables: Sequence[tf.Variable] = (),
    ) -> None:
        """Holds the tables.

        Args:
            tables: The logical tables.
            variables: The variables that really hold them, for SavedModels, whose functions must
                find every variable that they use.
            counters: For each replica, an `update_counter`; by default one.
            row_variables: Those of `variables` that hold rows, with names of their own.
        """
        self.row_variables = tuple(row_variables)
        self.counters = tuple(counters) or (update_counter(),)
        several = len(self.counters) > 1
        self._saved_counter = _Counters(self.counters) if several else self.counters[0]
        self._skipped = []
        for counter in self.counters:
            if not isinstance(counter, tf.distribute.DistributedValues):  # those of a TPU's cores
                with tf.device(counter.device):
                    self._skipped.append(update_counter())
        self._tables = {table.config.name: table for table in tables}
        self._variables = tuple(variables)

    @property
    def updates(self) -> tf.Variable:
        """The number of updates made, int64; every replica counts the same."""
        return self.counters[0]

    @property
    def skipped_updates(self) -> int:
        """The number of updates that were not made, since some gradient was not finite.

        Beside `updates`, since the tables were created; no checkpoint has it. 0 on a TPU.
        """
        return int(self._skipped[0]) if self._skipped else 0

    def count_update(self, finite: tf.Tensor, place: int = 0) -> None:
        """Counts an update by `counters[place]`, or as a skipped one where `finite` is false."""
        self.counters[place].assign_add(tf.cast(finite, tf.int64))
        self._skipped[place].assign_add(tf.cast(~finite, tf.int64))

    def __getitem__(self, name: str) -> Table:
        if name not in self._tables:
            raise ValueError(f"There is no table '{name}', only {list(self._tables)}.")
        return self._tables[name]

    def __contains__(self, name: object) -> bool:
        return name in self._tables

    def __iter__(self) -> Iterator[str]:
        return iter(self._tables)

    def __len__(self) -> int:
        return len(self._tables)

    def find_non_finite(self) -> str | None:
        """Returns the name of the first table with a NaN or an infinity, or None."""
        for name, table in self._tables.items():
            if table.has_non_finite():
                return name
        return None

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns all tables, slots and the update counter as arrays, keyed "table:slot"."""
        arrays = {
            f"{name}:{key}": table.read_rows(slot=key).numpy()
            for name, table in self._tables.items()
            for key in table.keys()
        }
        arrays[":updates"] = self.updates.numpy()
        return arrays

    def assign_arrays(self, arrays: Mapping[str, Any]) -> None:
        """Writes what `to_arrays` returned.

        Raises:
            ValueError: If a table or slot is missing or has another shape; nothing is written then.
        """
        loaded = []
        for name, table in self._tables.items():
            for key in table.keys():
                try:
                    value = np.asarray(arrays[f"{name}:{key}"])
                except KeyError as error:
                    raise ValueError(
                        f"The saved weights hold no '{key}' of table '{name}'."
                    ) from error
                if value.shape != table.shape(key):
                    raise ValueError(
                        f"The saved weights hold '{key}' of table '{name}' with the shape "
                        f"{list(value.shape)}, but the model's has {list(table.shape(key))}."
                    )
                loaded.append((table, value, key))
        for table, value, key in loaded:
            table.assign_rows(value, slot=key)
        for counter in self.counters:
            counter.assign(np.asarray(arrays[":updates"]))

    def _trackable_children(
        self, save_type: str = SaveType.CHECKPOINT, **kwargs: Any
    ) -> dict[str, Any]:
        del kwargs
        tables = {f"table:{name}": table for name, table in self._tables.items()}
        if save_type == SaveType.SAVEDMODEL:
            variables = (*self.counters, *self._variables)
            return tables | {f"variable_{k}": variable for k, variable in enumerate(variables)}
        return {"updates": self._saved_counter, **tables}

    def _lookup_dependency(self, name: str, cached_dependencies: Any = None) -> Any:
        del cached_dependencies
        # Keras 2 also reads SavedModels into models.
        of_saved_model = self._trackable_children(SaveType.SAVEDMODEL)
        return (of_saved_model | self._trackable_children()).get(name)


class _Counters(Trackable):
    """The update counters of all replicas: one number in a checkpoint."""

    def __init__(self, counters: Sequence[tf.Variable]) -> None:
        self._counters = counters

    def _serialize_to_tensors(self) -> dict[str, tf.Tensor]:
        return {VARIABLE_VALUE_KEY: self._counters[0].read_value()}

    def _restore_from_tensors(self, restored_tensors: Mapping[str, tf.Tensor]) -> tf.Operation:
        for counter in self._counters:
            counter.assign(restored_tensors[VARIABLE_VALUE_KEY])
        return tf.no_op()


def update_counter() -> tf.Variable:
    """Returns a variable that counts updates, on the current device; no strategy mirrors it."""
    return ResourceVariable(tf.constant(0, tf.int64), trainable=False, name="updates")
