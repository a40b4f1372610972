"""What the devices carry under a partial plan, kept up to date while tables come and go."""

from __future__ import annotations

import numpy as np

from tf_dlrm.embeddings.plan import DATA_PARALLEL, TABLE_WISE, TablePlan
from tf_dlrm.planner.model import CostModel, Parts

# A device that is over its memory by a millionth is worse than any second.
_EXCESS_SECONDS = 1e6
# Less than any part is asked for: what is left when all tables of a group were taken away.
_NO_IDS = 1e-9
# The weight of evenness against the step itself: it breaks ties between plans whose slowest device
# is the same, so that a search finds its way from one improvement of the maximum to the next.
_EVENNESS = 1e-3


class Loads:
    """The sums over the tables that are placed, for each device.

    Attributes:
        compute: float [devices], seconds of lookups and updates.
        memory: float [devices], bytes of tables.
        asked: float [groups, devices], ids or bags that each device asks of this one.
        request: Seconds that are equal on all devices.
    """

    def __init__(self, model: CostModel, groups: int) -> None:
        """Starts with no table.

        Args:
            model: The cost model.
            groups: Number of groups that choices may have parts in.
        """
        self._model = model
        self.compute = np.zeros(model.devices)
        self.memory = np.zeros(model.devices)
        self.asked = np.zeros((groups, model.devices))
        self.request = 0.0
        self._piece_seconds = np.array([model.piece_seconds(g) for g in range(groups)])
        self._piece_bytes = np.array([model.piece_bytes(g) for g in range(groups)])
        # A scale for evenness: the mean seconds of a device when all is placed.
        self.typical = 1.0

    def parts(self, table: str, choice: TablePlan) -> Parts:
        """Returns the parts of a table under a choice."""
        return self._model.parts(table, choice.sharding, len(choice.devices) or 1)

    def add(self, table: str, choice: TablePlan, sign: float = 1.0) -> None:
        """Puts a table somewhere, or with `sign` -1 takes it away."""
        parts = self.parts(table, choice)
        where = self._where(choice)
        self.compute[where] += sign * (parts.lookup + parts.update)
        self.memory[where] += sign * parts.memory
        for groups, asked in parts.asked:
            self.asked[groups, where] += sign * asked
        self.request += sign * parts.request

    def _where(self, choice: TablePlan) -> np.ndarray:
        if choice.sharding == DATA_PARALLEL:
            return np.arange(self._model.devices)
        return np.array(choice.devices)

    def score(self, evenness: float = _EVENNESS) -> float:
        """Returns what a search minimises: the seconds of a step that depend on the plan.

        Every device that is over its memory makes it worse than any plan that fits.

        Args:
            evenness: The weight of evenness; with 0 it is these seconds alone, if the plan fits.
        """
        squares = float((self.compute**2).sum()), float((self.memory**2).sum())
        pieces = self.asked.max(1)[:, np.newaxis]
        maxima = np.atleast_1d(self.compute.max()), np.atleast_1d(self.memory.max())
        return float(self._score(*maxima, pieces, self.request, *squares, evenness)[0])

    def scores_on_one(self, table: str) -> np.ndarray:
        """Returns for each device the score with `table` whole on it, [devices]."""
        parts = self.parts(table, TablePlan(TABLE_WISE, (0,)))
        seconds = parts.lookup[0] + parts.update[0]
        size = parts.memory[0]
        pieces = np.repeat(self.asked.max(1)[:, np.newaxis], len(self.compute), 1)
        for (group,), (count,) in parts.asked:
            pieces[group] = np.maximum(pieces[group], self.asked[group] + count)
        return self._score(
            np.maximum(self.compute.max(), self.compute + seconds),
            np.maximum(self.memory.max(), self.memory + size),
            pieces,
            self.request + parts.request,
            (self.compute**2).sum() + (2.0 * self.compute + seconds) * seconds,
            (self.memory**2).sum() + (2.0 * self.memory + size) * size,
        )

    def score_with(self, table: str, choice: TablePlan, evenness: float = _EVENNESS) -> float:
        """Returns the score with `table` put somewhere."""
        saved = self.compute.copy(), self.memory.copy(), self.asked.copy(), self.request
        self.add(table, choice)
        score = self.score(evenness)
        # Not subtracted, which would leave rounding errors.
        self.compute, self.memory, self.asked, self.request = saved
        return score

    def _score(
        self,
        compute: np.ndarray,
        memory: np.ndarray,
        pieces: np.ndarray,
        request: float,
        compute_squares: np.ndarray | float,
        memory_squares: np.ndarray | float,
        evenness: float = _EVENNESS,
    ) -> np.ndarray:
        """Returns the scores of several candidates [n]; `pieces` is [groups, n]."""
        model = self._model
        used = np.flatnonzero(pieces.max(1) > _NO_IDS)
        seconds = compute + request + self._piece_seconds @ pieces
        seconds = seconds + model.exchange_count(used.tolist()) * model.latency
        seconds = seconds + evenness * compute_squares / (model.devices * self.typical)
        other = self._piece_bytes @ pieces + model.fixed_bytes
        limit = model.memory_limit
        excess = np.maximum(memory + other - limit, 0.0) / limit
        unevenness = evenness * memory_squares / (model.devices * limit**2)
        return seconds + _EXCESS_SECONDS * np.where(excess > 0, excess + unevenness, 0.0)
