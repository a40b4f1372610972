"""What is kept of a trace: its ids and the distribution of its stack distances."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from tfrecords.errors import DataError
from tfrecords.traces.stack_distance import as_trace, stack_distances
from tfrecords.traces.trace_file import as_text, join, parse_ids, read_file
from tfrecords.traces.whole_file import write_whole

# Files of the reference round to two decimals.
_ROUNDING = 0.01


@dataclasses.dataclass(frozen=True, eq=False)
class Distribution:
    """The output of Algorithm 1 of the DLRM paper (arXiv 1906.00091, section 4.2).

    Attributes:
        accesses: The different ids in the order of their first access, uint64 `[ids]`.
        distances: The stack distances that occur, ascending, int64 `[distances]`; the first is 0,
            a new id.
        cumulative: For each distance, the share of accesses with this distance or a smaller one,
            float64 `[distances]`.

    Raises:
        DataError: If the values are not of this kind.
    """

    accesses: np.ndarray
    distances: np.ndarray
    cumulative: np.ndarray

    def __post_init__(self) -> None:
        accesses = as_trace(self.accesses)
        distances = np.asarray(self.distances, np.int64)
        cumulative = np.asarray(self.cumulative, np.float64)
        for name, value in (
            ("accesses", accesses),
            ("distances", distances),
            ("cumulative", cumulative),
        ):
            object.__setattr__(self, name, value)
        if not len(accesses):
            raise DataError("The distribution has no ids; it must hold at least one.")
        if len(np.unique(accesses)) != len(accesses):
            values, counts = np.unique(accesses, return_counts=True)
            raise DataError(
                f"The id {values[np.argmax(counts > 1)]} occurs twice among the different ids of "
                "the distribution."
            )
        if not len(distances) or distances[0] != 0:
            first = f"begin with {distances[0]}" if len(distances) else "are missing"
            raise DataError(
                f"The stack distances of the distribution {first}; the first must be 0, which "
                "stands for a new id."
            )
        if (np.diff(distances) <= 0).any():
            place = int(np.argmax(np.diff(distances) <= 0))
            raise DataError(
                f"The stack distance {distances[place + 1]} follows {distances[place]}; the "
                "distances of a distribution must ascend."
            )
        if distances[-1] > len(accesses):
            raise DataError(
                f"The stack distance {distances[-1]} is larger than the number of different ids, "
                f"{len(accesses)}."
            )
        self._check_probabilities()

    def _check_probabilities(self) -> None:
        cumulative = self.cumulative
        if len(cumulative) != len(self.distances):
            raise DataError(
                f"The distribution has {len(self.distances)} stack distances and "
                f"{len(cumulative)} cumulative probabilities; there must be one for each."
            )
        wrong = ~((cumulative >= 0) & (cumulative <= 1 + 1e-9))
        if wrong.any():
            raise DataError(
                f"The cumulative probability {cumulative[np.argmax(wrong)]} lies outside [0, 1]."
            )
        if (np.diff(cumulative) < 0).any():
            place = int(np.argmax(np.diff(cumulative) < 0))
            raise DataError(
                f"The cumulative probability {cumulative[place + 1]} follows {cumulative[place]}; "
                "they must not descend."
            )
        if cumulative[-1] < 1 - _ROUNDING:
            raise DataError(
                f"The last cumulative probability is {cumulative[-1]}; it must be 1 (to "
                f"{_ROUNDING})."
            )

    @classmethod
    def of_trace(cls, ids: np.ndarray, padding: bool = False) -> Distribution:
        """Profiles a trace.

        Args:
            ids: Whole numbers of at least 0, at least one, `[accesses]`.
            padding: Whether to count `ceil(accesses / largest distance)` more new accesses than
                there are, as the reference does with padding, so that new ids stay likely enough
                for large distances to become possible.

        Raises:
            DataError: If `ids` is empty or no trace.
        """
        ids = as_trace(ids)
        if not len(ids):
            raise DataError("An empty trace has no distribution of stack distances.")
        return cls.of_distances(ids, stack_distances(ids), padding)

    @classmethod
    def of_distances(
        cls, ids: np.ndarray, stack_distance: np.ndarray, padding: bool = False
    ) -> Distribution:
        """As `of_trace`, for a trace whose stack distances are known, int64 `[accesses]`."""
        counts = np.bincount(stack_distance)
        largest = len(counts) - 1
        if padding and largest:
            counts[0] += math.ceil(len(ids) / largest)
        distances = np.flatnonzero(counts)
        total = int(counts.sum())
        return cls(
            as_trace(ids[stack_distance == 0]), distances, np.cumsum(counts[distances]) / total
        )

    @property
    def probabilities(self) -> np.ndarray:
        """The share of accesses with each distance, float64 `[distances]`."""
        return np.diff(self.cumulative, prepend=0.0)

    def with_minimum_of_new(self, minimum: float) -> Distribution:
        """Raises the probability of a new id to a minimum, the others shrink in proportion.

        Where distances are large and new ids rare, a generated trace needs long until large
        distances become possible; the paper adjusts for that (section 4.2).

        Args:
            minimum: In [0, 1).

        Raises:
            DataError: If `minimum` is out of range.
        """
        if not 0 <= minimum < 1:
            raise DataError(
                f"The minimum probability of a new id must lie in [0, 1), not {minimum}."
            )
        first = float(self.cumulative[0])
        if first >= minimum:
            return self
        scaled = minimum + (self.cumulative - first) * ((1 - minimum) / (1 - first))
        return dataclasses.replace(self, cumulative=np.minimum(scaled, 1.0))

    def relabelled(self, keep: int | None = None) -> Distribution:
        """The same with ids that say nothing: 0, 1, 2, ... in the order of their first access.

        Args:
            keep: An id that stands for itself (for example the one for all values outside the
                vocabulary); no other gets its number.
        """
        ids: np.ndarray = np.arange(len(self.accesses), dtype=np.uint64)
        if keep is not None:
            kept = self.accesses == np.uint64(keep)
            others: np.ndarray = np.arange(len(ids) + 1, dtype=np.uint64)
            others = others[others != np.uint64(keep)]
            ids[~kept] = others[: int((~kept).sum())]
            ids[kept] = keep
        return dataclasses.replace(self, accesses=ids)

    def to_bytes(self) -> bytes:
        """The reference's text: a line each of ids, distances and cumulative probabilities.

        Probabilities are written so that reading gives the same float64.
        """
        lines = [
            join(self.accesses),
            join(self.distances),
            ", ".join(map(repr, self.cumulative.tolist())),
        ]
        return ("\n".join(lines) + "\n").encode("ascii")

    def write(self, path: str) -> None:
        """Writes the reference's text format, whole or not at all.

        Raises:
            DataError: If the file cannot be written.
        """
        write_whole(path, self.to_bytes())

    @classmethod
    def read(cls, path: str) -> Distribution:
        """Reads the reference's text format, also with rounded probabilities.

        Raises:
            DataError: If the file cannot be read or is not of this format; names file, line and
                value.
        """
        lines = as_text(path, read_file(path)).splitlines()
        while lines and not lines[-1].strip():
            lines.pop()
        if len(lines) != 3:
            raise DataError(
                f"The distribution {path} has {len(lines)} lines; it must have three: the ids, the "
                "stack distances, and the cumulative probabilities."
            )
        accesses = parse_ids(path, 1, lines[0])
        distances = parse_ids(path, 2, lines[1])
        if len(distances) and distances.max() >= 2**63:
            raise DataError(
                f"Line 2 of {path} holds the stack distance {distances.max()}; none can be larger "
                f"than the number of different ids, {len(accesses)}."
            )
        cumulative = _parse_probabilities(path, lines[2])
        try:
            return cls(accesses, distances.astype(np.int64), cumulative)
        except DataError as error:
            raise DataError(f"The distribution {path} cannot be used: {error}") from error


def _parse_probabilities(path: str, text: str) -> np.ndarray:
    values = []
    for number, item in enumerate(text.split(",")):
        try:
            values.append(float(item))
        except ValueError:
            raise DataError(
                f"Item {number + 1} of line 3 of {path} is {item.strip()[:40]!r}; cumulative "
                "probabilities are numbers in [0, 1]."
            ) from None
    return np.array(values, np.float64)
