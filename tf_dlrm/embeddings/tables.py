"""Logical tables: each a [vocabulary_size, dim] tensor, wherever its rows really are."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf_dlrm.embeddings.block import ROWS, Block
from tf_dlrm.embeddings.config import TableConfig
from tf_dlrm.embeddings.optimizers.optimizer import SlotSpec
from tf_dlrm.embeddings.stack import chunks
from tf_dlrm.internals import (
    VARIABLE_VALUE_KEY,
    ResourceVariable,
    SaveableObject,
    SaveSpec,
    SaveType,
    Trackable,
    escape_local_name,
)
from tf_dlrm.kernels.use import is_saving


class Table(Trackable):
    """One table and the slots of its optimizer, by logical rows.

    In a checkpoint it is one tensor `rows` [vocabulary_size, dim] and one for each slot, written as
    slices where it is large, and none of it depends on the placement.

    Attributes:
        config: The table's config.
        held_by_all: Whether every process that uses the table holds all of it.
    """

    def __init__(
        self, config: TableConfig, blocks: Sequence[Block], held_by_all: bool = True
    ) -> None:
        """Describes where the rows are.

        Args:
            config: See the class.
            blocks: The blocks of the table. Of copies of one, the first is read and all are
                written. Those of other processes are without variables.
            held_by_all: See the class.
        """
        self.config = config
        self.held_by_all = held_by_all
        self._here = [block for block in blocks if block.variables is not None]
        # Several blocks of one place are copies.
        first: dict[tuple[int, int], Block] = {}
        for block in sorted(self._here, key=_place):
            first.setdefault(_place(block), block)
        self._first = list(first.values())
        self._elsewhere = [block for block in blocks if _place(block) not in first]

    def read_rows(self, start: int = 0, count: int | None = None, slot: str = ROWS) -> tf.Tensor:
        """Returns rows of the table, or of one of its slots.

        Args:
            start: First row.
            count: Number of rows; None for all from `start` on.
            slot: "rows" for the table, else the name of a slot.

        Returns:
            float32 [count, dim], or [count] for a row-wise slot.

        Raises:
            ValueError: If the rows are not in the table, or another process holds some of them.
        """
        shape = self.shape(slot)
        count = shape[0] - start if count is None else count
        self._check_range(start, count)
        self._before_read()
        parts = [part for block in self._first if (part := block.overlap(start, count))]
        if not parts:
            return tf.zeros((0, *shape[1:]))
        found = [part.read(slot) for part in parts]
        by_column = parts[0].columns < self.config.dim
        return found[0] if len(found) == 1 else tf.concat(found, 1 if by_column else 0)

    def assign_rows(self, values: Any, start: int = 0, slot: str = ROWS) -> None:
        """Writes rows of the table, or of one of its slots, in place, to every copy.

        Args:
            values: float32 [count, dim], or [count] for a row-wise slot.
            start: First row to write.
            slot: "rows" for the table, else the name of a slot.

        Raises:
            ValueError: If the rows are not in the table, another process holds some of them, or
                `values` are not as wide as it.
        """
        values = tf.convert_to_tensor(values, tf.float32)
        shape = self.shape(slot)
        if values.shape.rank != len(shape) or values.shape[1:] != shape[1:]:
            raise ValueError(
                f"values for '{slot}' of table '{self.config.name}', which has the shape "
                f"{list(shape)}, cannot have the shape {list(values.shape)}."
            )
        self._check_range(start, values.shape[0])
        whole = Block(self.config, start, values.shape[0], 0, self.config.dim)
        self.assign_block(values, whole, slot)

    def slices(self, slot: str = ROWS) -> list[Block]:
        """Returns what this process holds of the table, or of a slot, and of copies one.

        Each is as large as one read may be.
        """
        dims = len(self.shape(slot))
        return [
            block.part(start, count)
            for block in self._first
            for start, count in chunks((block.rows, block.columns)[:dims])
        ]

    def shape(self, slot: str = ROWS) -> tuple[int, ...]:
        """Returns the shape of the table, or of one of its slots.

        Raises:
            ValueError: If the optimizer of the table has no such slot.
        """
        size = (self.config.vocabulary_size, self.config.dim)
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

    def has_non_finite(self) -> bool:
        """Returns whether what this process holds, also of slots, has a NaN or an infinity."""
        for key in self.keys():
            for block in self.slices(key):
                with tf.device(block.device_name(key)):  # rows of another machine stay there
                    finite = tf.reduce_all(tf.math.is_finite(self.read_block(block, key)))
                if not bool(finite):
                    return True
        return False

    def _before_read(self) -> None:
        """Is called before rows are read, for variables that must be brought up to date."""

    def _before_write(self) -> None:
        """Is called before rows are written."""

    def read_block(self, block: Block, slot: str) -> tf.Tensor:
        """Returns one of `slices`."""
        self._before_read()
        return block.read(slot)

    def assign_block(self, values: tf.Tensor, at: Block, slot: str) -> None:
        """Writes a rectangle of the table, or some rows of a row-wise slot, to every copy."""
        self._before_write()
        for block in self._here:
            part = block.overlap(at.first_row, at.rows)
            column = block.first_column - at.first_column
            if part is None or not 0 <= column < at.columns:
                continue
            rows = values
            if part.rows < at.rows:
                first = part.first_row - at.first_row
                rows = values[first : first + part.rows]
            if values.shape.rank == 2 and part.columns < at.columns:
                rows = rows[:, column : column + part.columns]
            part.assign(rows, slot)

    def _check_range(self, start: int, count: int) -> None:
        rows = self.config.vocabulary_size
        if start < 0 or count < 0 or start + count > rows:
            raise ValueError(
                f"Rows [{start}, {start + count}) are outside table '{self.config.name}' of "
                f"{rows} rows."
            )
        for block in self._elsewhere:
            if block.overlap(start, count):
                raise ValueError(
                    f"Rows of table '{self.config.name}' are on device {block.device}, which this "
                    "process cannot reach; a checkpoint has all rows."
                )

    def _gather_saveables_for_checkpoint(self) -> dict[str, Any]:
        """Tells tf.train.Checkpoint how to save and restore each key.

        Not by `_serialize_to_tensors`, whose restoring knows but one slice for each key.
        """
        if is_saving():  # a SavedModel has the variables that hold the rows
            return {}
        return {key: functools.partial(_SlicedTensor, self, key) for key in self.keys()}


def _place(block: Block) -> tuple[int, int]:
    return block.first_row, block.first_column


class _SlicedTensor(SaveableObject):
    """One key of a table in a checkpoint: one logical tensor, in slices where it is cut.

    Each slice is read when it is written, so that describing a table, which restoring does too,
    copies nothing. Where several processes hold a table, each writes and reads its own slices.
    """

    def __init__(self, table: Table, key: str, name: str) -> None:
        self._table, self._key, self._blocks = table, key, table.slices(key)
        specs = [
            SaveSpec(
                functools.partial(table.read_block, block, key),
                self._slice_spec(block),
                name,
                tf.float32,
                block.device_name(key),
            )
            for block in self._blocks
        ]
        super().__init__(None, specs, name)

    def restore(self, restored_tensors: Sequence[tf.Tensor], restored_shapes: Any) -> tf.Operation:
        """Writes the slices into the table."""
        shape = self._table.shape(self._key)
        for block, value in zip(self._blocks, restored_tensors, strict=True):
            wanted = (block.rows, block.columns)[: len(shape)]
            if value.shape.rank is None:  # read by another machine
                value = tf.ensure_shape(value, wanted)
            # A sliced tensor of another shape has been refused by TensorFlow, naming both shapes.
            if tuple(value.shape) != wanted:
                raise ValueError(
                    f"The checkpoint holds '{self._key}' of table '{self._table.config.name}' with "
                    f"the shape {list(value.shape)}, but the model's has {list(shape)}."
                )
            self._table.assign_block(value, block, self._key)
        return tf.no_op()

    def _slice_spec(self, block: Block) -> str:
        """Returns TensorFlow's notation for a slice of the tensor; "" for all of it."""
        shape = self._table.shape(self._key)
        ranges = [(block.first_row, block.rows), (block.first_column, block.columns)][: len(shape)]
        if ranges == [(0, size) for size in shape]:
            return ""
        full = " ".join(str(size) for size in shape)
        return f"{full} " + ":".join(f"{first},{count}" for first, count in ranges)


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
            row_variables: See the class; with names of their own.
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
        return next((n for n, table in self._tables.items() if table.has_non_finite()), None)

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
                except KeyError:
                    raise ValueError(
                        f"The saved weights hold no '{key}' of table '{name}'."
                    ) from None
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
        tables = {_child(name): table for name, table in self._tables.items()}
        if save_type == SaveType.SAVEDMODEL:
            variables = (*self.counters, *self._variables)
            return tables | {f"variable_{k}": variable for k, variable in enumerate(variables)}
        return {"updates": self._saved_counter, **tables}

    @staticmethod
    def checkpoint_key(table: str, slot: str) -> str:
        """Returns the key of a table's rows or slot in a checkpoint, after that of the set."""
        return f"{escape_local_name(_child(table))}/.ATTRIBUTES/{slot}"

    def _lookup_dependency(self, name: str, cached_dependencies: Any = None) -> Any:
        del cached_dependencies
        # Keras 2 also reads SavedModels into models.
        of_saved_model = self._trackable_children(SaveType.SAVEDMODEL)
        return (of_saved_model | self._trackable_children()).get(name)


def _child(table: str) -> str:
    return f"table:{table}"


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
