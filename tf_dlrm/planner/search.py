"""The search for a plan: simple ones to start from, then one table after the other moved."""

from __future__ import annotations

import random
from collections.abc import Container, Iterable, Mapping

import numpy as np

from tf_dlrm.embeddings.plan import (
    COLUMN_WISE,
    DATA_PARALLEL,
    ROW_WISE,
    SHARDINGS,
    TABLE_WISE,
    Plan,
    TablePlan,
)
from tf_dlrm.planner.loads import Loads
from tf_dlrm.planner.model import CostModel
from tf_dlrm.planner.pins import Pin

# Rounds of taking some tables away and putting them back: as many as this, or fewer where tables
# times devices are many.
_ROUNDS = 60
_WORK = 1 << 20
_TAKEN = 4
# Parts whose ids differ by less than this share are alike.
_ALIKE = 0.01
# An improvement by less is rounding.
_LEAST_GAIN = 1e-9
# Plans whose steps differ by less than this share are as fast.
_TIE = 1e-3
# A table of fewer bytes is simplest as a copy on each device.
_SMALL = 1 << 20

Placed = dict[str, TablePlan]


class Search:
    """Plans for one cost model, each better than the last one.

    The same arguments give the same plan on any machine of the same floating point.
    """

    def __init__(self, model: CostModel, pins: Mapping[str, Pin] | None = None) -> None:
        """Lists the ways to place each table.

        Args:
            model: The cost model.
            pins: What is decided already, by table; see `pins.check_pins`.
        """
        self._model = model
        self._pins = dict(pins or {})
        self._counts = {name: self._shardings(name) for name in model.tables}
        for name, shardings in self._counts.items():
            for sharding, count in shardings:
                model.parts(name, sharding, count)
        # Tables in the order in which greedy ways place them: the most expensive first.
        self._order = sorted(model.tables, key=lambda name: -self._weight(name))

    def _weight(self, name: str) -> float:
        parts = self._model.parts(name, TABLE_WISE, 1)
        return float(parts.lookup[0] + parts.update[0])

    def _shardings(self, name: str) -> list[tuple[str, int]]:
        """Returns (sharding, number of parts) that a table may have, pins honoured."""
        pin = self._pins.get(name)
        if pin is not None and pin.devices:
            return [(pin.sharding, len(pin.devices))]
        table, devices = self._model.tables[name], self._model.devices
        found = [(DATA_PARALLEL, 1), (TABLE_WISE, 1)] if devices > 1 else [(TABLE_WISE, 1)]
        for count in self._part_counts():
            if count <= table.vocabulary_size:
                found.append((ROW_WISE, count))
            # Parts of different widths cost a stack each, so only who asks for them gets them.
            if count <= table.dim and (pin is not None or table.dim % count == 0):
                found.append((COLUMN_WISE, count))
        if any(slot.row_wise for slot in table.optimizer.slots):
            found = [entry for entry in found if entry[0] != COLUMN_WISE]
        if pin is None:
            return found
        allowed = [entry for entry in found if entry[0] == pin.sharding]
        return allowed or [(pin.sharding, 1)]

    def _part_counts(self) -> list[int]:
        devices = self._model.devices
        counts = {devices, min(devices, self._model.hardware.devices_per_host)}
        counts.update(2**power for power in range(1, devices.bit_length()) if 2**power <= devices)
        return sorted(counts - {1})

    def candidates(self, loads: Loads, name: str) -> Iterable[TablePlan]:
        """Yields the placements of a table that are worth a try, the whole table on one excepted.

        Of the many sets of so many devices only those that carry least, in time, in memory or in
        ids asked for.
        """
        if self._is_fixed(name):
            yield self._pinned(name)
            return
        for sharding, count in self._counts[name]:
            if sharding == DATA_PARALLEL:
                yield TablePlan(DATA_PARALLEL)
            elif sharding != TABLE_WISE:
                yield from self._on_least(loads, name, sharding, count)

    def _on_least(self, loads: Loads, name: str, sharding: str, count: int) -> Iterable[TablePlan]:
        parts = self._model.parts(name, sharding, count)
        # The heaviest part goes where least is.
        heaviest = np.argsort(-(parts.lookup + parts.update), kind="stable")
        seen = set()
        for load in (loads.compute, loads.memory, loads.asked[parts.asked[0][0][0]]):
            devices: np.ndarray = np.empty(count, np.int64)
            devices[heaviest] = np.argsort(load, kind="stable")[:count]
            asked = parts.asked[0][1]
            if asked.max() - asked.min() <= _ALIKE * asked.max():
                devices.sort()  # in the order that people expect
            choice = TablePlan(sharding, tuple(devices.tolist()))
            if choice not in seen:
                seen.add(choice)
                yield choice

    def best_choice(
        self, loads: Loads, name: str, shardings: Container[str] = SHARDINGS
    ) -> tuple[TablePlan, float]:
        """Returns the best place of a table that is not placed, and the score with it.

        Args:
            loads: What the devices carry without it.
            name: The table.
            shardings: The kinds to look at; all of them, if the table may have none of these.
        """
        best: tuple[TablePlan, float] | None = None
        free = (TABLE_WISE, 1) in self._counts[name] and not self._is_fixed(name)
        if free and TABLE_WISE in shardings:
            scores = loads.scores_on_one(name)
            device = int(scores.argmin())
            best = TablePlan(TABLE_WISE, (device,)), float(scores[device])
        for choice in self.candidates(loads, name):
            if choice.sharding not in shardings:
                continue
            score = loads.score_with(name, choice)
            if best is None or score < best[1] - _LEAST_GAIN * abs(best[1]):
                best = choice, score
        return best or self.best_choice(loads, name)

    def _is_fixed(self, name: str) -> bool:
        return name in self._pins and bool(self._pins[name].devices)

    def _pinned(self, name: str) -> TablePlan:
        return TablePlan(self._pins[name].sharding, self._pins[name].devices)

    def _build(self, shardings: Container[str]) -> Placed:
        loads, placed = self._empty(), {}
        for name in self._order:
            placed[name], _ = self.best_choice(loads, name, shardings)
            loads.add(name, placed[name])
        return placed

    def _empty(self) -> Loads:
        loads = Loads(self._model, len(self._model.groups))
        loads.typical = sum(map(self._weight, self._order)) / self._model.devices
        return loads

    def table_wise(self) -> Plan:
        """Returns the usual plan: each table whole, the most expensive first, where least is.

        A table that is too large for a device is cut: by column into as few parts as fit, or by row
        where columns cannot be cut.
        """
        loads, placed = self._empty(), {}
        limit = self._model.memory_limit - self._model.fixed_bytes
        for name in self._order:
            choice = self._first_that_fits(loads, name, limit)
            loads.add(name, choice)
            placed[name] = choice
        return self._plan(placed)

    def greedy(self) -> Plan:
        """Returns the plan of one pass: the most expensive table first, each in its best way."""
        return self._plan(self._build(SHARDINGS))

    def _first_that_fits(self, loads: Loads, name: str, limit: float) -> TablePlan:
        if self._is_fixed(name):
            return self._pinned(name)
        order = {TABLE_WISE: 0, COLUMN_WISE: 1, ROW_WISE: 2, DATA_PARALLEL: 3}
        shardings = sorted(self._counts[name], key=lambda entry: (order[entry[0]], entry[1]))
        choice = TablePlan(DATA_PARALLEL)
        for sharding, count in shardings:
            if sharding == DATA_PARALLEL:
                continue
            parts = self._model.parts(name, sharding, count)
            roomy = np.flatnonzero(loads.memory + parts.memory.max() <= limit)
            pool = roomy if len(roomy) >= count else np.arange(self._model.devices)
            least = pool[np.argsort(loads.compute[pool], kind="stable")][:count]
            choice = TablePlan(sharding, tuple(sorted(least.tolist())))
            if len(roomy) >= count:
                break
        return choice

    def row_wise(self) -> Plan:
        """Returns the plan that cuts every table by row over all devices, pins excepted."""
        placed = {}
        for name, table in self._model.tables.items():
            pin = self._pins.get(name)
            count = min(self._model.devices, table.vocabulary_size)
            placed[name] = TablePlan(ROW_WISE, tuple(range(count)))
            if pin is not None and (pin.devices or pin.sharding != ROW_WISE):
                whole = TablePlan(TABLE_WISE, (0,))
                placed[name] = next(iter(self.candidates(self._empty(), name)), whole)
        return self._plan(placed)

    def best(self) -> Plan:
        """Returns the simplest of the best plans found, which are as fast but for a trifle.

        Without the trifle, never worse than the three simple ones.
        """
        plain = [self.table_wise(), self.row_wise(), self.greedy()]
        starts = [plan.tables for plan in plain]
        starts.append(self._build((DATA_PARALLEL, TABLE_WISE, COLUMN_WISE)))
        best, score = min(map(self._descend, starts), key=lambda found: found[1])
        # What was minimised also counts evenness, so the plain ones may win by a hair.
        return self._simplified(min([self._plan(self._shake(best, score)), *plain], key=self._rank))

    def _simplified(self, plan: Plan) -> Plan:
        """Places tables more simply, the cheapest first, as long as that costs only a trifle."""
        estimate = self._model.estimate(plan)
        if estimate.excess_bytes:
            return plan
        placed = dict(plan.tables)
        loads = self.loads_of(placed)
        longest = loads.score(evenness=0.0) + _TIE * estimate.step
        for name in reversed(self._order):
            loads.add(name, placed[name], -1.0)
            for sharding in self._simpler(name, placed[name].sharding):
                one = int(loads.scores_on_one(name).argmin())
                choice = TablePlan(sharding, (one,) if sharding == TABLE_WISE else ())
                if loads.score_with(name, choice, evenness=0.0) <= longest:
                    placed[name] = choice
                    break
            loads.add(name, placed[name])
        return self._plan(placed)

    def _simpler(self, name: str, than: str) -> list[str]:
        """Returns the shardings that a table may have and that are simpler, the simplest first."""
        free = () if self._is_fixed(name) else {sharding for sharding, _ in self._counts[name]}
        ranked = sorted(free, key=lambda sharding: self.complexity(name, sharding))
        return [way for way in ranked if self.complexity(name, way) < self.complexity(name, than)]

    def complexity(self, name: str, sharding: str) -> int:
        """Returns a number that is less for a simpler way to place a table.

        A copy of a small table on each device, a table whole on one, a copy of a large one, a cut.
        """
        if sharding == DATA_PARALLEL:
            return 0 if self._model.parts(name, DATA_PARALLEL, 1).memory[0] < _SMALL else 2
        return 1 if sharding == TABLE_WISE else 3

    def _rank(self, plan: Plan) -> tuple[float, float]:
        estimate = self._model.estimate(plan)
        return estimate.excess_bytes, estimate.step

    def best_of_each(self, loads: Loads, name: str) -> dict[str, float]:
        """Returns the score with a table in the best way of each kind of sharding that it may have.

        Args:
            loads: What the devices carry without it.
            name: The table.
        """
        kinds = dict.fromkeys(sharding for sharding, _ in self._counts[name])
        return {kind: self.best_choice(loads, name, (kind,))[1] for kind in kinds}

    def loads_of(self, placed: Mapping[str, TablePlan]) -> Loads:
        """Returns what the devices carry when each table is placed as given."""
        loads = self._empty()
        for name, choice in placed.items():
            loads.add(name, choice)
        return loads

    def _descend(self, placed: Mapping[str, TablePlan]) -> tuple[Placed, float]:
        """Moves one table after the other to its best place, until none gains."""
        placed = dict(placed)
        score = self.loads_of(placed).score()
        for _ in range(10):
            before = score
            loads = self.loads_of(placed)
            for name in self._order:
                score = self._replace(loads, placed, name, score)
            if score > before - _LEAST_GAIN * abs(before):
                break
        return placed, self.loads_of(placed).score()

    def _replace(self, loads: Loads, placed: Placed, name: str, score: float) -> float:
        loads.add(name, placed[name], -1.0)
        choice, found = self.best_choice(loads, name)
        if found < score - _LEAST_GAIN * abs(score):
            placed[name], score = choice, found
        loads.add(name, placed[name])
        return score

    def _shake(self, placed: Placed, score: float) -> Placed:
        """Takes some tables away, one of the slowest device's among them, and puts them back."""
        names = [name for name in self._order if not self._is_fixed(name)]
        if len(names) < 2 or self._model.devices == 1:
            return placed
        rounds = min(_ROUNDS, max(4, _WORK // (len(names) * self._model.devices)))
        chance = random.Random(0)
        for _ in range(rounds):
            loads = self.loads_of(placed)
            slowest = int(loads.compute.argmax())
            there = [name for name in names if slowest in placed[name].devices] or names
            taken = {chance.choice(there)}
            taken.update(chance.sample(names, min(_TAKEN - 1, len(names))))
            trial = dict(placed)
            order = sorted(taken)
            chance.shuffle(order)
            for name in order:
                loads.add(name, trial[name], -1.0)
            found = score
            for name in order:
                trial[name], found = self.best_choice(loads, name)
                loads.add(name, trial[name])
            for name in order:
                found = self._replace(loads, trial, name, found)
            found = self.loads_of(trial).score()
            if found < score - _LEAST_GAIN * abs(score):
                placed, score = trial, found
        return self._descend(placed)[0]

    def _plan(self, placed: Placed) -> Plan:
        # In the order of the model, so that two plans can be compared line by line.
        plan = Plan(self._model.devices, {name: placed[name] for name in self._model.tables})
        plan.check(self._model.features)
        return plan
