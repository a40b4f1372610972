"""Equally wide parts of tables whose rows are on several devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tf_dlrm.embeddings.config import FeatureConfig, TableConfig, tables_of
from tf_dlrm.embeddings.optimizers import Optimizer
from tf_dlrm.embeddings.plan import COLUMN_WISE, DATA_PARALLEL, Plan
from tf_dlrm.embeddings.pooling import StackedFeature
from tf_dlrm.embeddings.stack import Piece, Stack

# Makes the stack of the device of a number, or None where another process holds it.
MakeStack = Callable[[int, Sequence[Piece]], Stack | None]


class Held(NamedTuple):
    """Where a piece of a table is.

    Attributes:
        piece: The piece.
        device: Number of its device.
        stack: The stack that holds it; None in another process.
        offset: Its first row there.
    """

    piece: Piece
    device: int
    stack: Stack | None
    offset: int


class PartFeature(NamedTuple):
    """A feature's view of one part of its table.

    Attributes:
        name: Name of the part; that of the feature where the part is the whole width.
        feature: Name of the feature.
        first_column: First column of the part in the table.
        columns: Number of columns.
    """

    name: str
    feature: str
    first_column: int
    columns: int


class Home(NamedTuple):
    """The one device that has all rows of a view.

    Attributes:
        device: Number of the device.
        offset: The first row there.
    """

    device: int
    offset: int


class Route(NamedTuple):
    """Where rows of a sharded stack are.

    Attributes:
        device: int32 tensor [n], number of the device.
        row: Tensor [n] of the type of the rows asked for, the row in that device's stack.
    """

    device: tf.Tensor
    row: tf.Tensor


@dataclasses.dataclass(frozen=True)
class _Columns:
    """Equal columns of all rows of a table."""

    table: TableConfig
    first_column: int
    columns: int


class ShardedStack:
    """Parts of tables, one after the other in one space of rows, cut over devices.

    Attributes:
        data_parallel: Whether every device has all rows.
        dim: Columns.
        optimizer: The optimizer of all tables.
        rows: Number of rows of all devices together, or of one where data-parallel.
        stacks: What each device holds; None where it holds nothing or is of another process.
        features: The features that look into the stack, for `StackBatch`.
        views: What the features are of, in the same order.
        homes: By the names of views, of those that have one.
        held: All pieces.
    """

    def __init__(
        self,
        parts: Sequence[_Columns],
        features: Sequence[FeatureConfig],
        plan: Plan,
        make_stack: MakeStack,
    ) -> None:
        self.dim = parts[0].columns
        self.optimizer: Optimizer = parts[0].table.optimizer
        self.data_parallel = plan.tables[parts[0].table.name].sharding == DATA_PARALLEL
        pieces: list[list[Piece]] = [[] for _ in range(plan.devices)]
        filled = [0] * plan.devices
        # (first row in the common space, device, offset on the device) of each piece
        places: list[tuple[int, int, int]] = []
        where: list[tuple[int, int]] = []  # (device, number on the device) of each piece
        self.rows = 0
        self.features: list[StackedFeature] = []
        self.views: list[PartFeature] = []
        self.homes: dict[str, Home] = {}
        for part in parts:
            table = part.table
            views = [_view(f, part) for f in features if f.table.name == table.name]
            self.views += views
            self.features += [StackedFeature(view.name, table, self.rows) for view in views]
            columns = (part.first_column, part.columns)
            shards = [s for s in plan.shards(table) if (s.first_column, s.columns) == columns]
            if len(shards) == 1 and not self.data_parallel:
                home = Home(shards[0].device, filled[shards[0].device])
                self.homes.update((view.name, home) for view in views)
            for shard in shards:
                device = shard.device
                piece = Piece(table, shard.first_row, shard.rows, shard.first_column, shard.columns)
                where.append((device, len(pieces[device])))
                places.append((self.rows + shard.first_row, device, filled[device]))
                pieces[device].append(piece)
                filled[device] += shard.rows
            self.rows += table.vocabulary_size
        self.stacks = [make_stack(k, held) if held else None for k, held in enumerate(pieces)]
        self.held = [
            Held(pieces[device][number], device, self.stacks[device], offset)
            for (device, number), (_, _, offset) in zip(where, places, strict=True)
        ]
        places.sort()
        self._starts: np.ndarray = np.array([place[0] for place in places], np.int64)
        self._devices: np.ndarray = np.array([place[1] for place in places], np.int32)
        self._shifts: np.ndarray = np.array([place[2] - place[0] for place in places], np.int64)
        self.largest: int = max(filled)

    def on(self, device: int) -> Stack:
        """Returns what a device holds.

        Raises:
            ValueError: If it holds nothing, or is of another process.
        """
        stack = self.stacks[device]
        if stack is None:
            raise ValueError(f"Nothing of this stack can be reached on device {device}.")
        return stack

    def route(self, rows: tf.Tensor) -> Route:
        """Finds rows of the stack that is not data-parallel.

        Args:
            rows: int32 or int64 tensor [n], all in range.
        """
        if len(self._starts) == 1:
            return Route(tf.fill(tf.shape(rows), self._devices[0]), rows)
        dtype = rows.dtype.as_numpy_dtype
        piece = tf.searchsorted(tf.constant(self._starts.astype(dtype)), rows, side="right") - 1
        shift = tf.gather(tf.constant(self._shifts.astype(dtype)), piece)
        return Route(tf.gather(tf.constant(self._devices), piece), rows + shift)


def shard_tables(
    features: Sequence[FeatureConfig], plan: Plan, make_stack: MakeStack
) -> list[ShardedStack]:
    """Creates all tables of the features as a plan says.

    Args:
        features: The features.
        plan: Where each table is to be.
        make_stack: Creates the variables of one device.

    Raises:
        ValueError: If the plan does not fit the features.
    """
    plan.check(features)
    groups: dict[tuple[int, Optimizer, bool], list[_Columns]] = {}
    for table in tables_of(features):
        copied = plan.tables[table.name].sharding == DATA_PARALLEL
        for part in _parts(table, plan):
            groups.setdefault((part.columns, table.optimizer, copied), []).append(part)
    return [ShardedStack(parts, features, plan, make_stack) for parts in groups.values()]


def _parts(table: TableConfig, plan: Plan) -> list[_Columns]:
    if plan.tables[table.name].sharding != COLUMN_WISE:
        return [_Columns(table, 0, table.dim)]
    return [_Columns(table, s.first_column, s.columns) for s in plan.shards(table)]


def _view(feature: FeatureConfig, part: _Columns) -> PartFeature:
    name = feature.name
    if part.columns < part.table.dim:
        last = part.first_column + part.columns - 1
        name = f"{feature.name} (columns {part.first_column} to {last})"
    return PartFeature(name, feature.name, part.first_column, part.columns)
