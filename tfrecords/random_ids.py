"""How the random source draws ids: from which distribution, and with or without repeats in a bag.

Ids are drawn by inversion: a number that is uniform in [0, 1) is mapped to the id at this quantile
of a density over `[0, vocabulary_size)`, which is cut in cells of equal width. So no id is outside
the table, and the ids at the ends have whole cells like all others.

A bag without repeats is what is left of an endless stream of such draws when all but the first
occurrence of each id are thrown away and the stream is cut where the bag is full (successive
sampling). That holds however the bag is computed, of which there are two ways, see `draw_bags`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import tensorflow as tf

from tfrecords.errors import DataError

IDS = ("power_law", "uniform", "normal")

# The normal distribution is cut off so many standard deviations from the middle of the table.
_DEVIATIONS = 3.0
# Where a draw may hit an id that the bag has already with a larger probability than this, drawing
# again and again takes too long.
_HIGHEST_CHANCE_OF_REPEAT = 0.75


@dataclasses.dataclass(frozen=True)
class IdDistribution:
    """A distribution of ids that scales with the size of the table.

    Attributes:
        kind: "power_law": the probability of id `k` falls as the integral of `x ** -alpha` over
            `[k + 1, k + 2]`. "uniform": all ids are equally likely. "normal": a bell over the
            table, whose middle is the middle of the table and whose standard deviation is a sixth
            of its size; what lies outside the table is cut off.
        alpha: Exponent of the power law; 0 makes all ids equally likely. The others don't read it.

    Raises:
        DataError: If a value is not allowed.
    """

    kind: str = "power_law"
    alpha: float = 1.05

    def __post_init__(self) -> None:
        if self.kind not in IDS:
            raise DataError(f"ids must be one of {', '.join(IDS)}, not {self.kind!r}.")
        if not 0 <= self.alpha <= 20:
            raise DataError(f"alpha must lie between 0 (uniform) and 20, not {self.alpha}.")

    def quantiles(self, uniform: tf.Tensor, size: int, first: int = 0) -> tf.Tensor:
        """The ids at quantiles of the distribution.

        Args:
            uniform: Quantiles in [0, 1), float64 (float32 has 2**24 steps, fewer than a large table
                has rows).
            size: Rows of the table.
            first: Of the power law: the distribution is conditioned on ids of `first` and more.

        Returns:
            int64 ids in `[first, size)`, of the shape of `uniform`.
        """
        if self.kind == "power_law" and self.alpha:
            power, low, high = 1.0 - self.alpha, first + 1.0, size + 1.0
            if power == 0.0:
                logs = uniform * math.log(high / low)
            else:
                # exp and log take a third of the time of pow.
                scale = math.expm1(power * math.log(high / low))
                logs = tf.math.log1p(uniform * scale) / power
            places = tf.exp(logs) * low - 1.0
        elif self.kind == "normal":
            tail = _normal_cdf(-_DEVIATIONS)
            deviations = tf.math.ndtri(tail + uniform * (1.0 - 2.0 * tail))
            places = (deviations / _DEVIATIONS + 1.0) * (0.5 * size)
        else:
            places = first + uniform * (size - first)
        # Rounding of the last bit can step over an end.
        return tf.clip_by_value(tf.cast(places, tf.int64), first, size - 1)

    def weights(self, size: int, count: int) -> tuple[np.ndarray, float]:
        """What the first ids weigh, and all others together, on one scale.

        Args:
            size: Rows of the table.
            count: How many ids to weigh, at most `size`.

        Returns:
            float64 `[count]`, and a number that is 0 where there are no others.
        """
        ids: np.ndarray = np.arange(count, dtype=np.float64)
        if self.kind == "power_law":
            rest = self._integral(count + 1.0, size + 1.0) if count < size else 0.0
            return self._integral(ids + 1, ids + 2), float(rest)
        if self.kind == "normal":
            edges = (np.arange(size + 1) / size * 2.0 - 1.0) * _DEVIATIONS
            cells: np.ndarray = np.diff([_normal_cdf(float(edge)) for edge in edges])
            return cells[:count], float(cells[count:].sum())
        return np.ones(count), float(size - count)

    def chance_of_repeat(self, size: int, length: int) -> float:
        """How likely the last draw of a bag hits the others, if these are the likeliest ids."""
        if self.kind == "power_law":
            return float(self._integral(1.0, float(length)) / self._integral(1.0, size + 1.0))
        if self.kind == "normal":
            outside = _normal_cdf(-_DEVIATIONS * (length - 1) / size)
            return (1.0 - 2.0 * outside) / (1.0 - 2.0 * _normal_cdf(-_DEVIATIONS))
        return (length - 1) / size

    def _integral(self, low: Any, high: Any) -> Any:
        """The integral of `x ** -alpha`, of full relative precision also where it is tiny."""
        power = 1.0 - self.alpha
        logs = np.log(high / low)
        return logs if power == 0.0 else low**power * np.expm1(power * logs) / power


def draw_ids(
    distribution: IdDistribution, size: int, shape: list[Any] | tf.Tensor, seed: tf.Tensor
) -> tf.Tensor:
    """Independent ids, int64 of a shape, as a function of a seed (int64 `[2]`)."""
    uniform = tf.random.stateless_uniform(shape, seed, dtype=tf.float64, alg="philox")
    return distribution.quantiles(uniform, size)


def draw_bags(
    distribution: IdDistribution, size: int, width: int, lengths: tf.Tensor, seed: tf.Tensor
) -> tf.Tensor:
    """Bags without repeats.

    Args:
        distribution: Where the ids come from.
        size: Rows of the table.
        width: Upper bound of the lengths, at most `size`.
        lengths: Ids of each bag, int64 `[rows]` in `[1, width]`.
        seed: int64 `[2]`; the bags are a function of it.

    Returns:
        int64 `[rows, width]`: in ascending order the ids of a bag, then numbers that are no ids up
        to the width.
    """
    if distribution.chance_of_repeat(size, width) <= _HIGHEST_CHANCE_OF_REPEAT:
        return _by_redraws(distribution, size, width, lengths, seed)
    return _by_race(distribution, size, width, lengths, seed)


def _by_redraws(
    distribution: IdDistribution, size: int, width: int, lengths: tf.Tensor, seed: tf.Tensor
) -> tf.Tensor:
    """Draws, and draws again what the bag has already."""
    bags = draw_ids(distribution, size, [lengths.shape[0], width], seed)
    bags = _ascending(bags, size, lengths)
    pending = tf.where(tf.reduce_any(_repeats(bags), axis=1))

    def again(
        turn: tf.Tensor, bags: tf.Tensor, pending: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        some = tf.gather_nd(bags, pending)
        places = tf.where(_repeats(some))
        drawn = draw_ids(
            distribution, size, [tf.shape(places)[0]], seed + tf.stack([turn, tf.zeros_like(turn)])
        )
        some = tf.sort(tf.tensor_scatter_nd_update(some, places, drawn), axis=1)
        left = tf.boolean_mask(pending, tf.reduce_any(_repeats(some), axis=1))
        return turn + 1, tf.tensor_scatter_nd_update(bags, pending, some), left

    _, bags, _ = tf.while_loop(
        lambda turn, bags, pending: tf.shape(pending)[0] > 0,
        again,
        (tf.constant(1, tf.int64), bags, pending),
        shape_invariants=(tf.TensorShape([]), bags.shape, tf.TensorShape([None, 1])),
    )
    return bags


def _by_race(
    distribution: IdDistribution, size: int, width: int, lengths: tf.Tensor, seed: tf.Tensor
) -> tf.Tensor:
    """Lets ids arrive at random times, and takes the first.

    If the first arrival of each id is exponentially distributed, at a rate of its weight, then the
    order of the arrivals is that of the stream's first occurrences, and it takes no longer where an
    id has to come that is a billion times less likely than the others. The ids of the head arrive
    one by one. All others arrive as one stream, at the rate of their joint weight, in which every
    arrival draws its id; ids of the tail are so unlikely that hardly any comes twice.
    """
    rows = lengths.shape[0]
    head = min(size, 4 * width)
    weights, rest = distribution.weights(size, head)
    times = _exponential([rows, head], seed) / weights
    ids = tf.broadcast_to(tf.range(head, dtype=tf.int64), [rows, head])
    if rest > 0:
        # More than can come before a bag is full: not even half of them do.
        count = 2 * width + 16
        arrivals = tf.cumsum(_exponential([rows, count], seed + [1, 0]), axis=1) / rest
        uniform = tf.random.stateless_uniform(
            [rows, count], seed + [2, 0], dtype=tf.float64, alg="philox"
        )
        drawn = distribution.quantiles(uniform, size, first=head)
        order = tf.argsort(drawn, axis=1, stable=True)
        drawn = tf.gather(drawn, order, batch_dims=1)
        arrivals = tf.gather(arrivals, order, batch_dims=1)
        never = tf.constant(np.inf, tf.float64)
        times = tf.concat([times, tf.where(_repeats(drawn), never, arrivals)], axis=1)
        ids = tf.concat([ids, drawn], axis=1)
    _, first = tf.math.top_k(-times, width)
    return _ascending(tf.gather(ids, first, batch_dims=1), size, lengths)


def _ascending(bags: tf.Tensor, size: int, lengths: tf.Tensor) -> tf.Tensor:
    """Sorts each bag, all places from its length on made different numbers that are no ids."""
    width = bags.shape[1]
    beyond = tf.range(size, size + width, dtype=tf.int64)
    inside = tf.sequence_mask(lengths, width)
    return tf.sort(tf.where(inside, bags, beyond), axis=1)


def _repeats(bags: tf.Tensor) -> tf.Tensor:
    """Where a sorted bag, `[rows, width]`, has the id of the place before."""
    same = tf.equal(bags[:, 1:], bags[:, :-1])
    return tf.pad(same, [[0, 0], [1, 0]])


def _exponential(shape: list[int], seed: tf.Tensor) -> tf.Tensor:
    uniform = tf.random.stateless_uniform(shape, seed, dtype=tf.float64, alg="philox")
    return -tf.math.log1p(-uniform)


def _normal_cdf(deviations: float) -> float:
    return 0.5 * math.erfc(-deviations / math.sqrt(2.0))
