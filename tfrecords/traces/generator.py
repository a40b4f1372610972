"""New traces with the stack distances of an old one: Algorithm 2 of the DLRM paper."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfrecords.errors import DataError
from tfrecords.hashing import hash_number, hash_numbers
from tfrecords.traces.distribution import Distribution
from tfrecords.traces.recency_list import RecencyList

LRU, RAND = "lru", "rand"
POLICIES = (LRU, RAND)
# At least so many accesses are worked out at once; `generate` hands them out as they are asked for.
_AHEAD = 1 << 14
_MOST = 1 << 18


class TraceGenerator:
    """An endless trace, drawn from a distribution of stack distances.

    ```python
    generator = TraceGenerator(Distribution.of_trace(ids), seed=1)
    first, second = generator.generate(1000), generator.generate(1000)   # goes on where it was
    ```

    As in the paper (arXiv 1906.00091, section 4.2) all ids lie in one list, the unseen ones at its
    front in the order of the original trace, the most recently used at its back. Each access draws
    a stack distance; 0 takes the id at the front, d the one at position d from the back; the id
    moves to the back. While the number of new accesses so far is less than the largest distance,
    the draw is restricted to distances up to that number. When all ids were seen, the front holds
    the least recently used one, so that a "new" access takes that (see `new_after_all`).

    Access t is drawn with a hash of (seed, table, worker, t), so the trace is a function of these
    alone: not of the sizes of the pieces in which it is asked for, nor of the version of NumPy.

    Args:
        distribution: What to draw from.
        seed: Another seed gives another trace.
        table: Number of the table that the trace is for; another one gives another trace.
        worker: Number of the worker; each has a trace of its own.
        policy: "lru": as above. "rand": an access that is not new leaves the list as it is (the
            reference's second variant, for caches that evict at random).
        padding: As in the reference: no more new accesses once there were as many as the largest
            stack distance. Meant for distributions that were profiled with padding.
        new_after_all: Whether 0 stays among the distances to draw from once every id was seen.
            Without, the trace goes on with repetitions only, if there are any.

    Raises:
        DataError: If `policy` is not known or a number is negative.
    """

    def __init__(
        self,
        distribution: Distribution,
        seed: int = 0,
        table: int = 0,
        worker: int = 0,
        *,
        policy: str = LRU,
        padding: bool = False,
        new_after_all: bool = True,
    ) -> None:
        if policy not in POLICIES:
            raise DataError(f"policy must be one of {', '.join(POLICIES)}, not {policy!r}.")
        for name, number in (("table", table), ("worker", worker)):
            if number < 0:
                raise DataError(f"{name} must be at least 0, not {number}.")
        self._accesses = distribution.accesses
        self._draws = _Draws(distribution, padding, new_after_all)
        self._key = hash_number(seed, table, worker)
        size = len(self._accesses)
        index = np.int32 if size < 2**31 else np.int64
        self._recency: RecencyList | None = None
        if policy == LRU:
            self._recency = RecencyList(np.arange(size - 1, -1, -1, dtype=index))
        self._position = 0
        self._ahead: np.ndarray = np.zeros(0, np.uint64)

    @property
    def position(self) -> int:
        """How many ids `generate` has handed out."""
        return self._position

    def generate(self, count: int) -> np.ndarray:
        """The next ids, uint64 `[count]`.

        Raises:
            DataError: If `count` is negative.
        """
        if count < 0:
            raise DataError(f"count must be at least 0, not {count}.")
        parts = [self._ahead[:count]]
        self._ahead = self._ahead[count:]
        self._position += len(parts[0])
        missing = count - len(parts[0])
        while missing:
            made = self._next(min(max(missing, _AHEAD), _MOST))
            parts.append(made[:missing])
            self._ahead = made[missing:]
            self._position += len(parts[-1])
            missing -= len(parts[-1])
        return np.concatenate(parts)

    def skip(self, count: int) -> None:
        """Goes on as if `count` ids had been handed out; takes as long as generating them."""
        while count > 0:
            count -= len(self.generate(min(count, _MOST)))

    def state(self) -> dict[str, Any]:
        """All that `restore` needs to go on from here at once: numbers and arrays."""
        size = len(self._accesses)
        recency = np.arange(size) if self._recency is None else self._recency.items
        return {
            "position": self._position,
            "new": self._draws.new,
            "recency": recency.copy(),
            "ahead": self._ahead.copy(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from the state of a generator that was made with the same arguments.

        Raises:
            DataError: If the state is of a generator with another number of ids.
        """
        if len(state["recency"]) != len(self._accesses):
            raise DataError(
                f"The state is of a generator of {len(state['recency'])} different ids, this one "
                f"has {len(self._accesses)}."
            )
        self._position = int(state["position"])
        self._draws.new = int(state["new"])
        self._ahead = np.array(state["ahead"], np.uint64)
        if self._recency is not None:
            self._recency.items[:] = state["recency"]

    def _next(self, count: int) -> np.ndarray:
        first = self._position + len(self._ahead)
        hashed = hash_numbers(self._key, np.arange(first, first + count))
        return self._accesses[self._indices((hashed >> np.uint64(11)) * 2.0**-53)]

    def _indices(self, uniform: np.ndarray) -> np.ndarray:
        """Where in `accesses` the ids are that uniform draws lead to."""
        size = len(self._accesses)
        new_before = self._draws.new
        distances = self._draws.distances(uniform)
        is_new = distances == 0
        if self._recency is not None:
            return self._recency.take(np.where(is_new, size, distances))
        # The list only ever rotates: it begins with the oldest id that was new.
        front = new_before + np.cumsum(is_new) - is_new
        return (front + np.where(is_new, 0, size - distances)) % size


class _Draws:
    """Draws stack distances; remembers how many new accesses there were.

    Attributes:
        new: Number of new accesses so far.
    """

    def __init__(self, distribution: Distribution, padding: bool, new_after_all: bool) -> None:
        self._distances = distribution.distances
        self._cumulative = distribution.cumulative
        self._largest = int(distribution.distances[-1])
        self.new = 0
        # From how many new accesses on there are no more of them; infinite without repetitions.
        self._last_new: float = float("inf")
        if padding and self._largest:
            self._last_new = self._largest
        elif not new_after_all and self._largest:
            self._last_new = len(distribution.accesses)

    def distances(self, uniform: np.ndarray) -> np.ndarray:
        """Stack distances for uniform draws from [0, 1), one after the other, int64."""
        before = self.new
        is_new = self._is_new(uniform)
        new_before = before + np.cumsum(is_new) - is_new
        self.new = before + int(is_new.sum())
        if self.new < self._largest:
            restricted, late = slice(None), slice(len(uniform), None)
        else:
            end = int(np.searchsorted(new_before, self._largest))
            restricted, late = slice(end), slice(end, None)
        value = uniform.copy()
        possible = new_before[restricted]
        value[restricted] *= self._cumulative[self._support(possible)]
        over = new_before[late] >= self._last_new
        first = self._cumulative[0]
        value[late] = np.where(over, (1 - first) * value[late] + first, value[late])
        index: Any = np.searchsorted(self._cumulative, value)
        # Rounding may leave the last cumulative probability below 1, and the first one hit.
        np.minimum(index, len(self._distances) - 1, out=index)
        late_index = index[late]
        late_index[over] = np.maximum(late_index[over], 1)
        return self._distances[index]

    def _support(self, new: np.ndarray | int) -> Any:
        """Index of the largest distance that is possible after so many new accesses."""
        return np.searchsorted(self._distances, new, side="right") - 1

    def _is_new(self, uniform: np.ndarray) -> np.ndarray:
        """Which draws give distance 0; the only part in which one draw depends on another."""
        is_new: np.ndarray = np.zeros(len(uniform), bool)
        first = self._cumulative[0]
        place, new = 0, self.new
        while place < len(uniform) and new < min(self._largest, self._last_new):
            # More distances only make a new access less likely, so those that are new now include
            # all that will be; the piece grows with how seldom they are.
            share = float(self._cumulative[self._support(new)])
            end = min(len(uniform), place + 256 + 8 * new)
            candidates: np.ndarray = np.flatnonzero(uniform[place:end] * share <= first) + place
            supports = self._cumulative[
                self._support(np.arange(new, new + len(candidates)))
            ].tolist()
            found = 0
            places: list[int] = []
            limit = self._largest - new
            for candidate, draw in zip(
                candidates.tolist(), uniform[candidates].tolist(), strict=True
            ):
                if draw * supports[found] <= first:
                    places.append(candidate)
                    found += 1
                    if found == limit:
                        end = candidate + 1
                        break
            is_new[places] = True
            new += found
            place = end
        if place < len(uniform) and new < self._last_new:
            later: np.ndarray = np.flatnonzero(uniform[place:] <= first) + place
            if self._last_new < float("inf"):
                later = later[: int(self._last_new) - new]
            is_new[later] = True
        return is_new
