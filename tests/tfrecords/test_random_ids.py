import math

import numpy as np
import pytest
import tensorflow as tf

from tfrecords import random_ids
from tfrecords.errors import DataError
from tfrecords.random_ids import IdDistribution, draw_bags, draw_ids

# So many that an id whose share is a hundredth too large stands out: see `_assert_shares`.
_ROWS = 1_200_000
_SEED = tf.constant([11, 5], tf.int64)
_DISTRIBUTIONS = [
    IdDistribution("power_law", 0.0),
    IdDistribution("power_law", 1.0),
    IdDistribution("power_law", 1.6),
    IdDistribution("uniform"),
    IdDistribution("normal"),
]


def _probabilities(distribution, size):
    """Written out from the documentation, not from the code."""
    edges = np.arange(1, size + 2, dtype=np.float64)
    if distribution.kind == "uniform":
        integral = edges
    elif distribution.kind == "normal":
        integral = np.array([math.erf(((e - 1) / size * 6 - 3) / 2**0.5) for e in edges])
    elif distribution.alpha == 1.0:
        integral = np.log(edges)
    else:
        integral = edges ** (1 - distribution.alpha) / (1 - distribution.alpha)
    return np.diff(integral) / (integral[-1] - integral[0])


def _assert_shares(counts, probabilities, rows):
    """Frequent ids lie within 4.5 deviations, and chi-square of all where it mostly does.

    With a fixed seed this fails for a bias only: of 1 % in a share of 0.2, for example, which is
    5.5 deviations for `_ROWS`.
    """
    counts, expected = np.ravel(counts), np.ravel(probabilities) * rows
    assert (counts[expected == 0] == 0).all()
    counts, expected = counts[expected > 0], expected[expected > 0]
    variance = expected * np.maximum(1 - expected / rows, 1e-12)
    z = np.abs(counts - expected) / np.sqrt(variance)
    assert z[expected > 400].max(initial=0) < 4.5
    often = expected > 20
    if often.sum() > 1:
        freedom = often.sum()
        chi_square = ((counts - expected)[often] ** 2 / expected[often]).sum()
        assert chi_square < freedom + 4 * np.sqrt(2 * freedom) + 4


def _counts(ids, size):
    return np.bincount(np.ravel(ids), minlength=size)


@pytest.mark.parametrize("distribution", _DISTRIBUTIONS, ids=str)
def test_every_id_has_its_probability_also_at_the_ends(distribution):
    ids = draw_ids(distribution, 7, [_ROWS], _SEED).numpy()
    _assert_shares(_counts(ids, 7), _probabilities(distribution, 7), _ROWS)


@pytest.mark.parametrize("size", [1, 2, 1000, 2**31 + 5])
@pytest.mark.parametrize(
    "distribution",
    [*_DISTRIBUTIONS, IdDistribution("power_law", 1.0 + 1e-12), IdDistribution("power_law", 20.0)],
    ids=str,
)
def test_no_quantile_is_outside_the_table(distribution, size):
    uniform = tf.constant([0.0, 0.5, 1 - 2.0**-53], tf.float64)
    low, _, high = distribution.quantiles(uniform, size).numpy()
    assert low == 0 and high < size
    if distribution.alpha < 2:
        assert high >= 0.99 * (size - 1)


def test_the_power_law_is_conditioned_on_the_tail():
    distribution = IdDistribution("power_law", 1.6)
    uniform = tf.random.stateless_uniform([_ROWS], _SEED, dtype=tf.float64)
    ids = distribution.quantiles(uniform, 30, first=10).numpy()
    expected = _probabilities(distribution, 30)
    expected[:10] = 0
    _assert_shares(_counts(ids, 30), expected / expected.sum(), _ROWS)


@pytest.mark.parametrize("size", [5, 40])
@pytest.mark.parametrize("distribution", _DISTRIBUTIONS, ids=str)
@pytest.mark.parametrize("way", ["redraws", "race"])
def test_bags_without_repeats_are_successive_samples(monkeypatch, distribution, size, way):
    monkeypatch.setattr(random_ids, "_HIGHEST_CHANCE_OF_REPEAT", 1.0 if way == "redraws" else -1.0)
    if way == "race" and size == 40 and distribution.kind == "normal":
        return  # never raced: only the power law's tail is a stream
    rows = 300_000
    lengths = tf.cast(tf.range(rows) % 3 + 1, tf.int64)
    bags = draw_bags(distribution, size, 3, lengths, _SEED).numpy()
    p = _probabilities(distribution, size)
    # Of two: i and then j, or j and then i.
    second = np.outer(p / (1 - p), p)
    pairs = second + second.T
    np.fill_diagonal(pairs, 0)
    ones, twos, threes = bags[0::3], bags[1::3], bags[2::3]
    assert (ones[:, 1:] >= size).all() and (twos[:, 2] >= size).all() and (threes < size).all()
    assert (np.diff(bags, axis=1) > 0).all()
    _assert_shares(_counts(ones[:, 0], size), p, len(ones))
    _assert_shares(_counts(twos[:, :2], size), pairs.sum(1), len(twos))
    got = _counts(twos[:, 0] * size + twos[:, 1], size * size)
    _assert_shares(got, np.triu(pairs), len(twos))
    third = np.array(
        [sum(pairs[i, j] * p[k] / (1 - p[i] - p[j]) for i, j in _pairs_without(size, k)) for k in
         range(size)]
    )  # fmt: skip
    _assert_shares(_counts(threes, size), pairs.sum(1) + third, len(threes))


def _pairs_without(size, k):
    return [(i, j) for i in range(size) for j in range(i) if k not in (i, j)]


@pytest.mark.parametrize("kind", ["power_law", "uniform", "normal"])
def test_a_bag_can_hold_the_whole_table(kind):
    lengths = tf.fill([50], tf.constant(30, tf.int64))
    bags = draw_bags(IdDistribution(kind, 3.0), 30, 30, lengths, _SEED).numpy()
    assert (bags == np.arange(30)).all()


def test_the_steepest_power_law_still_fills_its_bags():
    lengths = tf.fill([50], tf.constant(40, tf.int64))
    bags = draw_bags(IdDistribution("power_law", 20.0), 10_000_000, 40, lengths, _SEED).numpy()
    assert (np.diff(bags, axis=1) > 0).all() and bags.max() < 10_000_000
    assert (bags[:, :5] == np.arange(5)).all()


def test_what_is_not_allowed():
    with pytest.raises(DataError, match="ids must be one of power_law, uniform, normal, not 'zip"):
        IdDistribution("zipf")
    with pytest.raises(DataError, match="alpha must lie between 0 .uniform. and 20, not nan"):
        IdDistribution(alpha=float("nan"))
