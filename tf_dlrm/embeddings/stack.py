"""Tables of equal dim and optimizer, or equal columns of them, in one variable on each device."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import tensorflow as tf

from tf_dlrm.embeddings import native
from tf_dlrm.embeddings.block import ROWS, Block, StackedFeature
from tf_dlrm.embeddings.config import FeatureConfig, TableConfig, tables_of
from tf_dlrm.embeddings.initializers import CHUNK_ROWS
from tf_dlrm.embeddings.optimizers import Optimizer
from tf_dlrm.embeddings.plan import DATA_PARALLEL, Plan
from tf_dlrm.internals import ResourceVariable

# Elements that are read at once where a table is swept: 64 MB of float32.
_CHUNK_ELEMENTS = 1 << 24


class Shard:
    """What one device holds of a stack: one variable, and one for each slot of the optimizer.

    Attributes:
        blocks: What the variables hold.
        rows: Number of rows of all blocks.
        optimizer: The optimizer of all tables.
        variable: float32 resource variable [rows, columns].
        slots: By name, float32 resource variables [rows, columns], or [rows] where row-wise.
    """

    def __init__(self, blocks: Sequence[Block], name: str = "rows") -> None:
        """Creates the variables on the current device; `initialize` draws the rows.

        Args:
            blocks: Blocks of equally many columns, of tables of equal optimizer, by `offset`.
            name: Name of the variable of the rows, of its own where Keras writes it by name.

        Raises:
            tf.errors.ResourceExhaustedError: If there is not enough memory.
        """
        self.rows = blocks[-1].offset + blocks[-1].rows
        dim = blocks[0].columns
        self.optimizer: Optimizer = blocks[0].table.optimizer
        shapes = {
            slot: (self.rows,) if slot.row_wise else (self.rows, dim)
            for slot in self.optimizer.slots
        }
        numbers = self.rows * dim + sum(map(math.prod, shapes.values()))
        try:
            if numbers > tf.int64.max:  # which TensorFlow cannot even be asked for
                raise OverflowError
            self.variable = _variable(self.optimizer, (self.rows, dim), 0.0, name)
            self.slots = {
                slot.name: _variable(self.optimizer, shape, slot.initial_value, slot.name)
                for slot, shape in shapes.items()
            }
        except (OverflowError, tf.errors.ResourceExhaustedError) as error:
            names = ", ".join(dict.fromkeys(block.table.name for block in blocks))
            raise tf.errors.ResourceExhaustedError(
                None,
                None,
                f"There is not enough memory for tables {names}: {self.rows:,} rows of {dim} "
                f"columns with {len(shapes)} optimizer slot(s) take {4e-9 * numbers:,.1f} GB as "
                "float32. Give them fewer rows, a smaller dim or a storage that shares rows, or "
                "divide them among the devices of a strategy.",
            ) from error
        held = {ROWS: self.variable, **self.slots}
        self.blocks = [dataclasses.replace(block, variables=held) for block in blocks]

    def initialize(self, seed: int) -> None:
        """Draws the first values of all rows."""
        with tf.device(self.variable.device):
            for block in self.blocks:
                stop = block.first_column + block.columns
                for start in range(0, block.rows, CHUNK_ROWS):
                    part = block.part(start, min(CHUNK_ROWS, block.rows - start))
                    values = part.table.initial_rows(seed, part.first_row, part.rows)
                    part.assign(values[:, part.first_column : stop], ROWS)

    def update(self, rows: tf.Tensor, gradients: tf.Tensor, step: tf.Tensor, kernels: bool) -> None:
        """Updates each row once, by the sum of its gradients; see `Optimizer.apply`."""
        apply = self.optimizer.apply
        if kernels and native.are_used(self.optimizer, self.variable.device):
            apply = functools.partial(native.update_rows, self.optimizer)
        apply(self.variable, self.slots, rows, gradients, step)

    @property
    def variables(self) -> tuple[tf.Variable, ...]:
        """The variable of the rows and those of the slots; none where TensorFlow has none."""
        return (self.variable, *self.slots.values())


# Makes the shard of the device of a number, or None where another process holds it.
MakeShard = Callable[[int, Sequence[Block]], Shard | None]


class Route(NamedTuple):
    """Where rows [n] of a stack are: the number of the device, and the row in its shard."""

    device: tf.Tensor
    row: tf.Tensor


class Stack:
    """Equal columns of several tables, one after the other in one space of rows, cut over devices.

    Attributes:
        copied: Whether every device has all rows.
        dim: Columns.
        rows: Number of rows of all tables.
        shards: What each device holds; None where it holds nothing or is of another process.
        blocks: The blocks of all devices, each with its offset on its device.
        features: The features that look into the stack.
        homes: By the names of `features`, the block of those of which one device has all rows.
    """

    def __init__(
        self,
        parts: Sequence[Block],
        features: Sequence[FeatureConfig],
        plan: Plan,
        make_shard: MakeShard,
    ) -> None:
        """Creates the shards.

        Args:
            parts: Of each table, equally many columns of all rows.
            features: The features of all tables, in this stack or not.
            plan: Where the blocks are to be.
            make_shard: See `on_devices`.
        """
        self.dim = parts[0].columns
        self.copied = plan.tables[parts[0].table.name].sharding == DATA_PARALLEL
        held: list[list[Block]] = [[] for _ in range(plan.devices)]
        # By table and first column, since several columns of one may be of equal width.
        starts: dict[tuple[str, int], int] = {}
        self.rows = 0
        self.features: list[StackedFeature] = []
        for part in parts:
            starts[part.table.name, part.first_column] = self.rows
            self.features += [_view(f, part, self.rows) for f in features if f.table == part.table]
            for block in plan.blocks(part.table):
                if (block.first_column, block.columns) == (part.first_column, part.columns):
                    own = held[block.device]
                    offset = own[-1].offset + own[-1].rows if own else 0
                    own.append(dataclasses.replace(block, offset=offset))
            self.rows += part.table.vocabulary_size
        order = {feature.name: k for k, feature in enumerate(features)}
        self.features.sort(key=lambda view: order[view.feature])
        self.shards = [make_shard(k, own) if own else None for k, own in enumerate(held)]
        self.blocks = [
            block
            for shard, own in zip(self.shards, held, strict=True)
            for block in (own if shard is None else shard.blocks)
        ]
        self.homes: dict[str, Block] = {}
        for feature in self.features:
            at = (feature.table.name, feature.first_column)
            own = [b for b in self.blocks if (b.table.name, b.first_column) == at]
            if len(own) == 1 and not self.copied:
                self.homes[feature.name] = own[0]
        # For each range of rows where it begins, its device, and how far it is moved there.
        self._ranges = sorted(
            (
                start := starts[b.table.name, b.first_column] + b.first_row,
                b.device,
                b.offset - start,
            )
            for b in self.blocks
        )

    def initialize(self, seed: int) -> None:
        """Draws the first values of all rows that this process holds."""
        for shard in self.shards:
            if shard is not None:
                shard.initialize(seed)

    def on(self, device: int = 0) -> Shard:
        """Returns what a device holds.

        Raises:
            ValueError: If it holds nothing, or is of another process.
        """
        shard = self.shards[device]
        if shard is None:
            raise ValueError(f"Nothing of this stack can be reached on device {device}.")
        return shard

    def route(self, rows: tf.Tensor) -> Route:
        """Finds rows [n] of a stack that is not copied, all in range."""
        starts, devices, shifts = zip(*self._ranges, strict=True)
        if len(set(devices)) == 1 and not any(shifts):
            return Route(tf.fill(tf.shape(rows), devices[0]), rows)
        block = tf.searchsorted(tf.constant(starts, rows.dtype), rows, side="right") - 1
        shift = tf.gather(tf.constant(shifts, rows.dtype), block)
        return Route(tf.gather(tf.constant(devices), block), rows + shift)

    def gather(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns rows [n, dim] from devices that are all within the reach of this process."""
        if self.copied or len(self.shards) == 1:
            return tf.gather(self.on(0).variable, rows)
        route = self.route(rows)
        count = len(self.shards)
        wanted = tf.dynamic_partition(route.row, route.device, count)
        places = tf.dynamic_partition(tf.range(tf.size(rows)), route.device, count)
        found = []
        for shard, own in zip(self.shards, wanted, strict=True):
            if shard is None:
                found.append(tf.zeros([0, self.dim]))
                continue
            with tf.device(shard.variable.device):
                found.append(tf.gather(shard.variable, own))
        return tf.ensure_shape(tf.dynamic_stitch(places, found), [None, self.dim])


def make_stacks(
    features: Sequence[FeatureConfig], plan: Plan, make_shard: MakeShard
) -> list[Stack]:
    """Creates the tables of the features as a plan says; `make_shard` as of `on_devices`.

    Raises:
        ValueError: If the plan does not fit the features.
    """
    plan.check(features)
    groups: dict[tuple[int, Optimizer, bool], list[Block]] = {}
    for table in tables_of(features):
        copied = plan.tables[table.name].sharding == DATA_PARALLEL
        columns = dict.fromkeys((b.first_column, b.columns) for b in plan.blocks(table))
        for first, count in columns:
            part = Block(table, 0, table.vocabulary_size, first, count)
            groups.setdefault((count, table.optimizer, copied), []).append(part)
    return [Stack(parts, features, plan, make_shard) for parts in groups.values()]


def on_devices(devices: Mapping[int, str | None]) -> MakeShard:
    """Returns what makes shards on devices of this process, by number; None is the current one."""
    numbers = itertools.count()

    def make_shard(device: int, blocks: Sequence[Block]) -> Shard | None:
        if device not in devices:
            return None
        name = devices[device]
        with contextlib.nullcontext() if name is None else tf.device(name):
            return Shard(blocks, f"rows_{next(numbers)}")

    return make_shard


def group_tables(tables: Sequence[TableConfig]) -> list[list[TableConfig]]:
    """Returns the tables in groups that one variable can hold: of equal dim and optimizer."""
    groups: dict[tuple[int, Optimizer], list[TableConfig]] = {}
    for table in tables:
        groups.setdefault((table.dim, table.optimizer), []).append(table)
    return list(groups.values())


def _view(feature: FeatureConfig, part: Block, offset: int) -> StackedFeature:
    if part.columns == part.table.dim:
        return StackedFeature(feature.name, part.table, offset)
    last = part.first_column + part.columns - 1
    name = f"{feature.name} (columns {part.first_column} to {last})"
    return StackedFeature(name, part.table, offset, part.first_column, feature.name)


def _variable(optimizer: Optimizer, shape: tuple[int, ...], value: float, name: str) -> tf.Variable:
    device = tf.zeros([]).device
    if native.are_used(optimizer, device):
        with tf.device(device):
            initial = native.filled(shape, value)
    else:
        initial = tf.fill(shape, tf.constant(value, tf.float32))
    # Not tf.Variable, which under a strategy would make a copy on every device. Keras 2 compiles
    # models under a strategy only if all of their variables say that they were made there.
    strategy = tf.distribute.get_strategy() if tf.distribute.has_strategy() else None
    return ResourceVariable(initial, trainable=False, name=name, distribute_strategy=strategy)


def chunks(shape: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yields (start, count) of ranges of rows, each small enough to be held beside the table."""
    step = max(1, _CHUNK_ELEMENTS // math.prod(shape[1:]))
    for start in range(0, shape[0], step):
        yield start, min(step, shape[0] - start)
