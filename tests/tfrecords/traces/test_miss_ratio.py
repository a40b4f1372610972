import collections

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrecords.errors import DataError
from tfrecords.traces.miss_ratio import MissRatioCurve, compare
from tfrecords.traces.stack_distance import stack_distances

_TRACES = st.lists(st.integers(0, 9), min_size=1, max_size=80)


def _misses_of_a_cache(trace, size):
    cache, misses = collections.OrderedDict(), 0
    for access in trace:
        if access in cache:
            cache.move_to_end(access)
        else:
            misses += 1
            cache[access] = None
            if len(cache) > size:
                cache.popitem(last=False)
    return misses / len(trace)


@settings(max_examples=100, deadline=None)
@given(_TRACES)
def test_equal_to_running_caches(trace):
    curve = MissRatioCurve.of_distances(stack_distances(np.array(trace)))
    expected = [_misses_of_a_cache(trace, size) for size in range(13)]
    np.testing.assert_allclose(curve.at(np.arange(13)), expected, atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(_TRACES, _TRACES)
def test_differences(first, second):
    distances = [stack_distances(np.array(trace)) for trace in (first, second)]
    curves = [[_misses_of_a_cache(trace, size) for size in range(13)] for trace in (first, second)]
    got = compare(*distances)
    assert got.max_difference == pytest.approx(np.abs(np.subtract(*curves)).max(), abs=1e-12)
    counts = [collections.Counter(d.tolist()) for d in distances]
    total = sum(abs(counts[0][d] / len(first) - counts[1][d] / len(second)) for d in range(13))
    assert got.total_variation == pytest.approx(total / 2, abs=1e-12)
    assert 0 <= got.mean_difference <= got.max_difference + 1e-12
    assert compare(distances[0], distances[0]).mean_difference == 0


def test_the_mean_is_over_sizes_on_a_logarithmic_scale():
    # Apart only where a cache holds 1 to 9 of the 100 ids that the largest distance spans.
    first, second = np.array([0, 1, 100, 100]), np.array([0, 10, 100, 100])
    got = compare(first, second)
    assert got.max_difference == 0.25 and got.total_variation == 0.25
    assert got.mean_difference == pytest.approx(0.25 / 2, abs=0.002)


def test_an_empty_trace_has_no_curve():
    with pytest.raises(DataError, match="An empty trace has no miss-ratio curve"):
        MissRatioCurve.of_distances(np.zeros(0, np.int64))
