"""What tables, batch and hardware make of the cost model: the load of any table placed anyhow."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tf_dlrm.embeddings.config import FeatureConfig, TableConfig, tables_of
from tf_dlrm.embeddings.optimizers import Optimizer
from tf_dlrm.embeddings.plan import (
    COLUMN_WISE,
    DATA_PARALLEL,
    ROW_WISE,
    Plan,
    dealt_rows,
    even_cut,
)
from tf_dlrm.errors import check_whole
from tf_dlrm.planner import cost
from tf_dlrm.planner.hardware import Hardware
from tf_dlrm.planner.workload import Dense, Workload, expected_unique


class Group(NamedTuple):
    """What travels for parts of tables in one stack, in pieces padded to the largest.

    Attributes:
        columns: Width.
        optimizer: Optimizer.
        unit: What is counted, one of the units of `cost`.
    """

    columns: int
    optimizer: Optimizer
    unit: str


class Parts(NamedTuple):
    """The load of a table, part by part, wherever the parts are put.

    Attributes:
        asked: For each unit its group, int [k], and how many of it each device asks of each part,
            float [k]; equal devices may have several parts.
        lookup: float [k], seconds.
        update: float [k], seconds.
        memory: float [k], bytes of weights and slots.
        request: Seconds that every device spends on its own ids of the table.
    """

    asked: tuple[tuple[np.ndarray, np.ndarray], ...]
    lookup: np.ndarray
    update: np.ndarray
    memory: np.ndarray
    request: float


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a plan costs, in seconds and bytes; arrays have an element for each device.

    Attributes:
        lookup: Gathering rows for all devices.
        update: Updating rows.
        table_bytes: Weights and slots.
        other_bytes: Exchange buffers, activations and dense parameters, equal on all devices.
        memory_limit: What a device may fill.
        ids: Ids that each device is asked for by all devices together.
        exchange: Moving ids, vectors and gradients, latency included.
        exchange_bytes: What each device sends to others, padding included.
        request: Making a device's own ids unique, and pooling.
        dense: MLPs and interaction.
        all_reduce: Summing the gradients of the MLPs.
        overhead: Of a step that does nothing.
    """

    lookup: np.ndarray
    update: np.ndarray
    table_bytes: np.ndarray
    other_bytes: float
    memory_limit: float
    ids: np.ndarray
    exchange: float
    exchange_bytes: float
    request: float
    dense: float
    all_reduce: float
    overhead: float

    @property
    def tables(self) -> np.ndarray:
        """Seconds that each device spends on the tables' rows."""
        return self.lookup + self.update

    @property
    def step(self) -> float:
        """Seconds of a step: the slowest device's tables, and what all do alike."""
        alike = self.exchange + self.request + self.dense + self.all_reduce + self.overhead
        return float(self.tables.max()) + alike

    @property
    def imbalance(self) -> float:
        """The slowest device's time on rows over the mean; 1 is perfect."""
        mean = float(self.tables.mean())
        return float(self.tables.max()) / mean if mean else 1.0

    @property
    def excess_bytes(self) -> float:
        """By how much the fullest device is over its limit; 0 if it is not."""
        return max(0.0, float(self.table_bytes.max()) + self.other_bytes - self.memory_limit)


class CostModel:
    """The cost of any plan for given features, workload, hardware and number of devices.

    Attributes:
        features: The features.
        tables: Their tables, by name.
        workload: What is looked up.
        hardware: The hardware.
        devices: Number of devices, W.
        batch: Examples on a device.
        groups: The groups met so far.
        memory_limit: Bytes that a device may fill.
        fixed_bytes: Bytes of activations and dense parameters on a device.
        latency: Seconds of an empty collective.
    """

    def __init__(
        self,
        features: Sequence[FeatureConfig],
        workload: Workload,
        hardware: Hardware,
        devices: int,
        dense: Dense | None = None,
    ) -> None:
        """Checks what is given, and computes what no plan changes.

        Raises:
            ValueError: If the features contradict each other, `workload` names others, or there is
                no device.
        """
        check_whole("devices", devices, 1)
        self.features = tuple(features)
        self.tables = {table.name: table for table in tables_of(features)}
        workload.check(features)
        self.workload = workload
        self.hardware = hardware
        self.devices = devices
        self.batch = math.ceil(workload.batch_size / devices)
        self.groups: list[Group] = []
        self.memory_limit = hardware.device_memory(devices)
        self.latency = cost.latency_seconds(devices, hardware)
        self._sharers = hardware.sharers(devices)
        self._ids_per_example = {
            name: workload.ids_per_example(features, name) for name in self.tables
        }
        self._id_bytes = max(cost.id_bytes(t.vocabulary_size) for t in self.tables.values())
        self.parts = functools.lru_cache(maxsize=None)(self._parts)
        dims = [feature.table.dim for feature in self.features]
        layers = (dense or Dense()).layers(dims)
        parameters = sum((inputs + 1) * outputs for inputs, outputs in layers)
        products = sum(inputs * outputs for inputs, outputs in layers)
        if dense is not None:
            products += dense.interaction_multiplications(dims)
        self._dense = cost.dense_seconds(products, parameters, self.batch, hardware, self._sharers)
        self._all_reduce = (
            cost.all_reduce_seconds(parameters * cost.FLOAT_BYTES, devices, hardware)
            if layers
            else 0.0
        )
        self.fixed_bytes = cost.activation_bytes(
            sum(self.draws(name) * table.dim for name, table in self.tables.items()),
            sum(dims),
            sum(outputs for _, outputs in layers),
            parameters,
            self.batch,
        )

    def draws(self, table: str) -> float:
        """Returns the ids of a table in the part of the batch of one device."""
        return self.batch * self._ids_per_example[table]

    def group_number(self, group: Group) -> int:
        """Returns the number of a group in `groups`, which it may be new in."""
        if group not in self.groups:
            self.groups.append(group)
        return self.groups.index(group)

    def piece_seconds(self, group: int) -> float:
        """Returns the seconds that an id more in the largest piece of a group costs everyone."""
        return cost.exchange_seconds(self._travels(group)[0], self.devices, self.hardware)

    def piece_bytes(self, group: int) -> float:
        """Returns the bytes of exchange buffers that an id more in the largest piece takes."""
        return self.devices * self._travels(group)[1]

    def _travels(self, group: int) -> tuple[int, int]:
        columns, _, unit = self.groups[group]
        return cost.bytes_per_id(columns, self._id_bytes, self.workload.communication_bytes, unit)

    def _parts(self, name: str, sharding: str, count: int) -> Parts:
        """Returns the loads of a table that is cut into `count` parts.

        A data-parallel table has one part, the load of each device.
        """
        table = self.tables[name]
        rows, dim = table.vocabulary_size, table.dim
        columns = [dim] * count
        # Ranges of rows, and of which part each is.
        bounds, part_of = [(0, rows)] * count, list(range(count))
        if sharding == ROW_WISE:
            dealt = dealt_rows(rows, count)
            bounds, part_of = [(a, b) for _, a, b in dealt], [part for part, _, _ in dealt]
        elif sharding == COLUMN_WISE:
            cuts = [even_cut(dim, count, part) for part in range(count)]
            columns = [stop - first for first, stop in cuts]
        copied = sharding == DATA_PARALLEL
        by_rows, pooled, bags = self.draws(name), 0.0, 0.0
        whole = count == 1 or sharding == COLUMN_WISE  # one device has all rows
        if whole and not copied and self.devices > 1:
            rows_of, bags_of = self.workload.ids_by_rows(self.features, name)
            by_rows, pooled = self.batch * sum(rows_of), self.batch * sum(bags_of)
            bags = float(self.batch * len(bags_of))
        local, everywhere, rows_held = (
            np.bincount(part_of, weights=of_range, minlength=count)
            for of_range in (
                self._unique(table, bounds, by_rows),
                self._unique(table, bounds, self.draws(name) * self.devices),
                [b - a for a, b in bounds],
            )
        )
        gathered = local if copied else self.devices * (local + pooled)
        units = {cost.COPY if copied else cost.ROW: local}
        units |= {cost.POOLED_ID: np.full(count, pooled), cost.BAG: np.full(count, bags)}
        units = {unit: asked for unit, asked in units.items() if asked.any()}
        groups: dict[str, np.ndarray] = {unit: np.zeros(count, np.int64) for unit in units}
        lookup, update, memory = (np.zeros(count) for _ in range(3))
        for width in sorted(set(columns)):
            of_width = np.array(columns) == width
            for unit, group in groups.items():
                group[of_width] = self.group_number(Group(width, table.optimizer, unit))
            lookup[of_width] = cost.lookup_seconds(
                gathered[of_width], width, self.hardware, self._sharers
            ) + cost.pooling_seconds(self.devices * pooled, width, self.hardware, self._sharers)
            update[of_width] = cost.update_seconds(
                self.devices * (local[of_width] + pooled),
                everywhere[of_width],
                width,
                table.optimizer,
                self.hardware,
                self._sharers,
            )
            memory[of_width] = cost.table_bytes(rows_held[of_width], width, table.optimizer)
        pieces = count if sharding == COLUMN_WISE else 1
        request = cost.request_seconds(
            by_rows,
            0.0 if copied else float(local.sum()) / pieces,
            dim,
            pieces,
            self.hardware,
            self._sharers,
        )
        asked = tuple((groups[unit], units[unit]) for unit in units)
        return Parts(asked, lookup, update, memory, request)

    def _unique(
        self, table: TableConfig, bounds: Sequence[tuple[int, int]], draws: float
    ) -> np.ndarray:
        """Returns the different ids of so many draws in ranges of rows."""
        edges = np.array(bounds)
        below = expected_unique(
            edges.reshape(-1),
            table.vocabulary_size,
            draws,
            self.workload.alpha,
            self.workload.popular_first,
        ).reshape(edges.shape)
        return below[:, 1] - below[:, 0]

    def exchange_count(self, groups: Sequence[int]) -> int:
        """Returns the collectives of a step: counts, ids, gradients, and vectors if any travel."""
        if self.devices == 1 or not len(groups):
            return 0
        return 3 + any(self.groups[group].unit != cost.COPY for group in groups)

    def estimate(self, plan: Plan) -> Estimate:
        """Returns what a plan costs.

        Raises:
            ValueError: If the plan is for another number of devices or for other tables.
        """
        if plan.devices != self.devices:
            raise ValueError(f"The plan is for {plan.devices} device(s), not {self.devices}.")
        plan.check(self.features)
        lookup, update, memory = (np.zeros(self.devices) for _ in range(3))
        ids: dict[int, np.ndarray] = {}
        request = 0.0
        for name, placed in plan.tables.items():
            copied = placed.sharding == DATA_PARALLEL
            parts = self.parts(name, placed.sharding, len(placed.devices) or 1)
            where = np.arange(self.devices) if copied else np.array(placed.devices)
            lookup[where] += parts.lookup
            update[where] += parts.update
            memory[where] += parts.memory
            for groups, asked in parts.asked:
                for group in np.unique(groups):
                    own = slice(None) if copied else groups == group
                    ids.setdefault(int(group), np.zeros(self.devices))[where[own]] += asked[own]
            request += parts.request
        largest = {group: float(asked.max()) for group, asked in ids.items()}
        seconds = sum(n * self.piece_seconds(group) for group, n in largest.items())
        sent = sum(n * self._travels(group)[0] for group, n in largest.items())
        buffers = sum(n * self.piece_bytes(group) for group, n in largest.items())
        return Estimate(
            lookup=lookup,
            update=update,
            table_bytes=memory,
            other_bytes=self.fixed_bytes + buffers,
            memory_limit=self.memory_limit,
            ids=self.devices
            * np.sum([n for g, n in ids.items() if self.groups[g].unit != cost.BAG], axis=0),
            exchange=seconds + self.exchange_count(list(ids)) * self.latency,
            exchange_bytes=(self.devices - 1) * sent,
            request=request,
            dense=self._dense,
            all_reduce=self._all_reduce,
            overhead=self.hardware.step_overhead_us * 1e-6,
        )
