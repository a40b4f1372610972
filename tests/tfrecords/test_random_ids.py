import math

import numpy as np
import pytest
import tensorflow as tf

from tfrecords import random_ids
from tfrecords.errors import DataError
from tfrecords.random_ids import IdDistribution, draw_bags, draw_ids

_ROWS = 100_000
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


def _shares(ids, size):
    return np.bincount(np.ravel(ids), minlength=size) / len(ids)


@pytest.mark.parametrize("distribution", _DISTRIBUTIONS, ids=str)
def test_every_id_has_its_probability_also_at_the_ends(distribution):
    ids = draw_ids(distribution, 7, [_ROWS], _SEED).numpy()
    np.testing.assert_allclose(_shares(ids, 7), _probabilities(distribution, 7), atol=0.006)


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
    np.testing.assert_allclose(_shares(ids, 30), expected / expected.sum(), atol=0.006)


@pytest.mark.parametrize("size", [5, 40])
@pytest.mark.parametrize("distribution", _DISTRIBUTIONS, ids=str)
@pytest.mark.parametrize("way", ["redraws", "race"])
def test_bags_without_repeats_are_successive_samples(monkeypatch, distribution, size, way):
    monkeypatch.setattr(random_ids, "_HIGHEST_CHANCE_OF_REPEAT", 1.0 if way == "redraws" else -1.0)
    if way == "race" and size == 40 and distribution.kind == "normal":
        return  # never raced: only the power law's tail is a stream
    lengths = tf.cast(tf.range(_ROWS) % 3 + 1, tf.int64)
    bags = draw_bags(distribution, size, 3, lengths, _SEED).numpy()
    p = _probabilities(distribution, size)
    # Of two: i and then j, or j and then i.
    second = np.outer(p / (1 - p), p)
    pairs = second + second.T
    np.fill_diagonal(pairs, 0)
    ones, twos, threes = bags[0::3], bags[1::3], bags[2::3]
    assert (ones[:, 1:] >= size).all() and (twos[:, 2] >= size).all() and (threes < size).all()
    assert (np.diff(bags, axis=1) > 0).all()
    np.testing.assert_allclose(_shares(ones[:, 0], size), p, atol=0.012)
    np.testing.assert_allclose(_shares(twos[:, :2], size), pairs.sum(1), atol=0.012)
    got = np.zeros((size, size))
    np.add.at(got, (twos[:, 0], twos[:, 1]), 1 / len(twos))
    np.testing.assert_allclose(got, np.triu(pairs), atol=0.012)
    third = np.array(
        [sum(pairs[i, j] * p[k] / (1 - p[i] - p[j]) for i, j in _pairs_without(size, k)) for k in
         range(size)]
    )  # fmt: skip
    np.testing.assert_allclose(_shares(threes, size), pairs.sum(1) + third, atol=0.012)


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
