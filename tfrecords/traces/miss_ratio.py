"""Miss-ratio curves, and how far two traces are apart."""

from __future__ import annotations

import dataclasses

import numpy as np

from tfrecords.errors import DataError

_LOG_SIZES = 512


@dataclasses.dataclass(frozen=True, eq=False)
class MissRatioCurve:
    """The share of accesses that miss in an LRU cache, by the size of the cache.

    An access misses a cache of c ids if its id is new or its stack distance is larger than c. The
    ratio only changes at sizes that occur as a stack distance.

    Attributes:
        sizes: 0 and the stack distances that occur, ascending, int64 `[points]`.
        ratios: The miss ratio from each of these sizes on up to the next, float64 `[points]`.
    """

    sizes: np.ndarray
    ratios: np.ndarray

    @classmethod
    def of_distances(cls, stack_distance: np.ndarray) -> MissRatioCurve:
        """The curve of a trace.

        Args:
            stack_distance: 0 for a new id, int64 `[accesses]`, at least one.

        Raises:
            DataError: If there is no access.
        """
        if not len(stack_distance):
            raise DataError("An empty trace has no miss-ratio curve.")
        counts = np.bincount(stack_distance)
        sizes: np.ndarray = np.flatnonzero(counts[1:]) + 1
        hits = np.concatenate([[0], np.cumsum(counts[sizes])])
        return cls(np.concatenate([[0], sizes]), 1 - hits / len(stack_distance))

    def at(self, sizes: np.ndarray) -> np.ndarray:
        """The miss ratio of caches of these sizes (at least 0), float64."""
        return self.ratios[np.searchsorted(self.sizes, sizes, side="right") - 1]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How close one trace is to another: 0 is equal, 1 the most that is possible.

    Attributes:
        max_difference: Largest difference of the two miss ratios over all cache sizes.
        mean_difference: Mean absolute difference over cache sizes from 1 to the largest stack
            distance of the two, evenly spaced on a logarithmic scale as in the picture.
        total_variation: Total variation distance of the distributions of stack distances: the share
            of accesses that would have to get another distance to make them equal.
    """

    max_difference: float
    mean_difference: float
    total_variation: float


def compare(first: np.ndarray, second: np.ndarray) -> Comparison:
    """Compares two traces by their stack distances.

    Args:
        first: Stack distances of one trace, 0 for a new id, int64 `[accesses]`, at least one.
        second: Stack distances of the other, of any length.

    Raises:
        DataError: If a trace is empty.
    """
    curves = MissRatioCurve.of_distances(first), MissRatioCurve.of_distances(second)
    # Both are steps, so the largest difference is at a step of one of them.
    steps = np.union1d(curves[0].sizes, curves[1].sizes)
    sizes = log_sizes(int(steps[-1]))
    shares: np.ndarray = np.zeros((2, int(steps[-1]) + 1))
    for share, distances in zip(shares, (first, second), strict=True):
        counts = np.bincount(distances)
        share[: len(counts)] = counts / len(distances)
    return Comparison(
        max_difference=float(np.abs(curves[0].at(steps) - curves[1].at(steps)).max()),
        mean_difference=float(np.abs(curves[0].at(sizes) - curves[1].at(sizes)).mean()),
        total_variation=float(np.abs(shares[0] - shares[1]).sum() / 2),
    )


def log_sizes(largest: int) -> np.ndarray:
    """Cache sizes from 1 to `largest`, evenly spaced on a logarithmic scale, float64."""
    return np.geomspace(1, max(largest, 1), _LOG_SIZES)
