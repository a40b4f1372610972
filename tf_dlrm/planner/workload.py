"""What a step looks up and computes: batch, ids per feature, how popular ids are, the MLPs."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from tf_dlrm.embeddings.config import FeatureConfig
from tf_dlrm.embeddings.plan import MANY_IDS
from tf_dlrm.errors import check_whole

# The popularity curve is exact up to this rank and sampled beyond it.
_EXACT_RANKS = 1024
_RANKS_PER_OCTAVE = 16


@dataclasses.dataclass(frozen=True)
class Workload:
    """What the tables are asked in a step.

    Attributes:
        batch_size: Examples of a step on all devices together.
        hotness: Mean ids in an example for each feature; a feature that is not named has 1.
        alpha: Exponent of the power law of ids: the k-th most popular id is drawn with a
            probability proportional to k ** -alpha. 0: all ids are equally likely.
        popular_first: Whether popular ids are the low ones, as in vocabularies that number values
            by their first appearance or their count. False: popular ids lie anywhere.
        communication_bytes: Bytes of a number in vectors and gradients that travel: 4 or 2.
    """

    batch_size: int
    hotness: Mapping[str, float] = dataclasses.field(default_factory=dict)
    alpha: float = 0.0
    popular_first: bool = False
    communication_bytes: int = 4

    def __post_init__(self) -> None:
        check_whole("batch_size", self.batch_size, 1)
        for feature, ids in self.hotness.items():
            if not 0 < ids < math.inf:
                raise ValueError(f"hotness of '{feature}' must be a number above 0, but is {ids}.")
        if not 0 <= self.alpha <= 20:
            raise ValueError(f"alpha must be between 0 (uniform) and 20, but is {self.alpha}.")
        if self.communication_bytes not in (2, 4):
            raise ValueError(
                f"communication_bytes must be 4 or 2, but is {self.communication_bytes}."
            )

    def ids_per_example(self, features: Sequence[FeatureConfig], table: str) -> float:
        """Returns the mean ids in an example of all features of a table."""
        return sum(self.hotness.get(f.name, 1.0) for f in features if f.table.name == table)

    def ids_by_rows(
        self, features: Sequence[FeatureConfig], table: str
    ) -> tuple[list[float], list[float]]:
        """Returns the mean ids of a table's features whose rows travel; and where owners pool.

        Owners pool bags that have many ids, or different sizes, as a mean that is no whole number
        says.
        """
        means = [self.hotness.get(f.name, 1.0) for f in features if f.table.name == table]
        pooled = [ids for ids in means if ids >= MANY_IDS or ids % 1]
        return [ids for ids in means if ids not in pooled], pooled

    def check(self, features: Sequence[FeatureConfig]) -> None:
        """Raises ValueError if `hotness` names features that there are not."""
        unknown = sorted(set(self.hotness) - {feature.name for feature in features})
        if unknown:
            raise ValueError(f"hotness names '{unknown[0]}', which is no feature of the model.")


@dataclasses.dataclass(frozen=True)
class Dense:
    """The part of the model that every device has a copy of.

    Attributes:
        dense_features: Numbers of an example that enter the bottom MLP.
        bottom_mlp: Its outputs, layer by layer.
        top_mlp: The outputs of the top MLP, layer by layer.
        interaction: "dot" or "concat".
        interaction_itself: Whether "dot" includes each vector's product with itself.
    """

    dense_features: int = 0
    bottom_mlp: tuple[int, ...] = ()
    top_mlp: tuple[int, ...] = ()
    interaction: str = "dot"
    interaction_itself: bool = False

    def layers(self, dims: Sequence[int]) -> list[tuple[int, int]]:
        """Returns (inputs, outputs) of each layer.

        Args:
            dims: Width of the vector of each feature.
        """
        bottom = (self.dense_features, *self.bottom_mlp) if self.bottom_mlp else ()
        vectors = [*dims, *bottom[-1:]]
        if self.interaction == "dot":
            count = len(vectors)
            pairs = count * (count + (1 if self.interaction_itself else -1)) // 2
            width = pairs + sum(bottom[-1:])
        else:
            width = sum(vectors)
        top = (width, *self.top_mlp) if self.top_mlp else ()
        return [*zip(bottom, bottom[1:], strict=False), *zip(top, top[1:], strict=False)]

    def interaction_multiplications(self, dims: Sequence[int]) -> int:
        """Returns the multiplications of the interaction of one example: all pairs, as one GEMM."""
        if self.interaction != "dot" or not dims:
            return 0
        count = len(dims) + bool(self.bottom_mlp)
        return count * count * max(dims)


def expected_unique(
    rows: Sequence[int] | np.ndarray,
    vocabulary_size: int,
    draws: float,
    alpha: float = 0.0,
    popular_first: bool = False,
) -> np.ndarray:
    """Returns the expected number of different ids below each of `rows` after some draws.

    With p_i the probability of id i: the sum over i of 1 - (1 - p_i) ** draws. Draws are taken as
    independent, also within an example.

    Args:
        rows: Bounds [n]: ids in [0, rows) are counted.
        vocabulary_size: Number of ids.
        draws: Number of draws from all ids.
        alpha: See `Workload`.
        popular_first: See `Workload`.

    Returns:
        float64 [n], ids.
    """
    bounds = np.asarray(rows, np.float64)
    if not draws:
        return np.zeros_like(bounds)
    if not alpha:
        return bounds * _seen(1.0 / vocabulary_size, draws)
    ranks, below = _unique_below_ranks(vocabulary_size, float(draws), float(alpha))
    if popular_first:
        return np.interp(bounds, ranks, below)
    return bounds * (below[-1] / vocabulary_size)


def _seen(probability: np.ndarray | float, draws: float) -> np.ndarray:
    """Returns 1 - (1 - p) ** draws without loss of digits at small p."""
    with np.errstate(divide="ignore"):  # the log of 0, for an id that every draw gives
        return -np.expm1(draws * np.log1p(-np.minimum(probability, 1.0)))


@functools.lru_cache(maxsize=4096)
def _unique_below_ranks(size: int, draws: float, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns ranks [k], the first 0 and the last `size`, and the unique ids below each."""
    exact = min(size, _EXACT_RANKS)
    edges: list[np.ndarray] = [np.arange(exact + 1, dtype=np.float64)]
    if size > exact:
        octaves = math.log2(size / exact)
        edges.append(np.geomspace(exact, size, max(2, int(octaves * _RANKS_PER_OCTAVE)))[1:])
    ranks = np.concatenate(edges)
    widths = np.diff(ranks)
    # The geometric middle of a bin stands for its ids, which are one alone up to `exact`.
    weights = np.sqrt((ranks[:-1] + 1.0) * ranks[1:]) ** -alpha
    probabilities = weights / np.sum(weights * widths)
    below = np.concatenate([[0.0], np.cumsum(widths * _seen(probabilities, draws))])
    return ranks, below
