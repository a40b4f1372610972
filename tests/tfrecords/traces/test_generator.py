import bisect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrecords.errors import DataError
from tfrecords.traces.distribution import Distribution
from tfrecords.traces.generator import TraceGenerator
from tfrecords.traces.stack_distance import stack_distances


def _by_a_list(distribution, uniform, policy, padding, new_after_all):
    """Algorithm 2 as the paper and the reference put it, one access at a time."""
    items = distribution.accesses.tolist()
    size, distances = len(items), distribution.distances.tolist()
    cumulative, largest = distribution.cumulative.tolist(), distances[-1]
    new, trace = 0, []
    for draw in uniform.tolist():
        over = new >= largest and (padding or (not new_after_all and new >= size))
        if new < largest:
            draw *= cumulative[bisect.bisect_right(distances, new) - 1]
        elif over:
            draw = (1 - cumulative[0]) * draw + cumulative[0]
        index = min(bisect.bisect_left(cumulative, draw), len(distances) - 1)
        if over and len(distances) > 1:
            index = max(index, 1)
        place = size - distances[index] if distances[index] else 0
        trace.append(items[place])
        new += distances[index] == 0
        if policy == "lru" or not distances[index]:
            items.append(items.pop(place))
    return trace


_PROFILED = st.lists(st.integers(0, 12), min_size=1, max_size=60)


@settings(max_examples=300, deadline=None)
@given(
    trace=_PROFILED,
    policy=st.sampled_from(["lru", "rand"]),
    padding=st.booleans(),
    new_after_all=st.booleans(),
    count=st.integers(0, 400),
    decimals=st.sampled_from([2, 17]),
    seed=st.integers(0, 2**32),
)
def test_equal_to_a_list(trace, policy, padding, new_after_all, count, decimals, seed):
    exact = Distribution.of_trace(np.array(trace), padding)
    distribution = Distribution(
        exact.accesses, exact.distances, np.round(exact.cumulative, decimals)
    )
    options = {"policy": policy, "padding": padding, "new_after_all": new_after_all}
    generator = TraceGenerator(distribution, seed, **options)
    uniform = np.random.default_rng(seed).random(count)
    # Draws that meet the limits between distances, and both ends.
    uniform[::7] = np.minimum(np.round(uniform[::7], 1), 1 - 2**-53)
    halves = [generator._indices(part) for part in (uniform[: count // 3], uniform[count // 3 :])]
    got = distribution.accesses[np.concatenate(halves)].tolist()
    assert got == _by_a_list(distribution, uniform, **options)


@pytest.mark.parametrize("policy", ["lru", "rand"])
def test_equal_to_a_list_over_many_accesses(policy):
    rng = np.random.default_rng(0)
    distribution = Distribution.of_trace(np.minimum(rng.zipf(1.4, 20_000), 3000))
    uniform = rng.random(40_000)
    generator = TraceGenerator(distribution, policy=policy)
    got = distribution.accesses[generator._indices(uniform)].tolist()
    assert got == _by_a_list(distribution, uniform, policy, False, True)


@pytest.mark.parametrize("policy", ["lru", "rand"])
def test_the_sizes_of_the_pieces_do_not_matter(policy):
    rng = np.random.default_rng(0)
    distribution = Distribution.of_trace(rng.integers(0, 300, 5000))
    whole = TraceGenerator(distribution, 5, policy=policy).generate(60_000)
    generator = TraceGenerator(distribution, 5, policy=policy)
    pieces = [generator.generate(count) for count in (0, 1, 999, 20_000, 3, 38_997)]
    assert np.concatenate(pieces).tolist() == whole.tolist()
    assert generator.position == 60_000 and whole.dtype == np.uint64

    skipped = TraceGenerator(distribution, 5, policy=policy)
    skipped.skip(21_000)
    state = skipped.state()
    assert skipped.generate(39_000).tolist() == whole[21_000:].tolist()
    restored = TraceGenerator(distribution, 5, policy=policy)
    restored.restore(state)
    assert restored.position == 21_000
    assert restored.generate(39_000).tolist() == whole[21_000:].tolist()


def test_seed_table_and_worker_each_give_another_trace():
    distribution = Distribution.of_trace(np.random.default_rng(0).integers(0, 300, 5000))
    traces = [
        TraceGenerator(distribution, *arguments).generate(500).tolist()
        for arguments in [(1, 2, 3), (1, 2, 3), (2, 2, 3), (1, 3, 3), (1, 2, 2), (3, 2, 1)]
    ]
    assert traces[0] == traces[1]
    assert len({tuple(trace) for trace in traces}) == 5


def test_the_trace_has_the_stack_distances_that_were_profiled():
    rng = np.random.default_rng(1)
    original = rng.permutation(600)[np.minimum(rng.geometric(0.01, 100_000) - 1, 599)]
    wanted = Distribution.of_trace(original)
    trace = TraceGenerator(wanted, 3).generate(600_000)
    # At the start large distances are not possible yet, and what is new is not so later.
    late = stack_distances(trace)[400_000:]
    for distance in (1, 10, 50, 100, 200):
        share = wanted.probabilities[1 : np.searchsorted(wanted.distances, distance, "right")].sum()
        assert abs(((late > 0) & (late <= distance)).mean() - share) < 0.005, distance
    assert set(trace.tolist()) == set(original.tolist())


def test_new_ids_come_in_the_order_of_the_original():
    distribution = Distribution.of_trace(np.array([9, 4, 4, 7, 9, 1, 4, 8, 9, 9]))
    trace = TraceGenerator(distribution, 2).generate(200)
    assert Distribution.of_trace(trace).accesses.tolist() == [9, 4, 7, 1, 8]
    only_new = Distribution.of_trace(np.array([3, 1, 2]))
    assert TraceGenerator(only_new).generate(7).tolist() == [3, 1, 2, 3, 1, 2, 3]
    forbidden = TraceGenerator(only_new, padding=True, new_after_all=False)
    assert forbidden.generate(4).tolist() == [3, 1, 2, 3]


def test_no_new_accesses_after_all_were_seen():
    # Largest distance 2 of 50 ids: "new" after all were seen is distance 50.
    distribution = Distribution.of_trace(np.repeat(np.arange(50), 3)[:149].repeat(2))
    assert distribution.distances.tolist() == [0, 1]
    for new_after_all in (True, False):
        generator = TraceGenerator(distribution, 1, new_after_all=new_after_all)
        trace = generator.generate(5000)
        assert (stack_distances(trace).max() == 50) == new_after_all
        assert len(np.unique(trace)) == 50
    # Padding forbids new accesses after the first here: the largest distance is 1.
    assert len(np.unique(TraceGenerator(distribution, 1, padding=True).generate(500))) == 1


def test_arguments_that_are_not_allowed():
    distribution = Distribution.of_trace(np.array([1, 2, 1]))
    for arguments, message in [
        ({"policy": "fifo"}, "policy must be one of lru, rand, not 'fifo'"),
        ({"table": -1}, "table must be at least 0, not -1"),
        ({"worker": -1}, "worker must be at least 0, not -1"),
    ]:
        with pytest.raises(DataError, match=message):
            TraceGenerator(distribution, **arguments)
    with pytest.raises(DataError, match="count must be at least 0, not -1"):
        TraceGenerator(distribution).generate(-1)
    state = TraceGenerator(Distribution.of_trace(np.array([1]))).state()
    with pytest.raises(DataError, match="1 different ids, this one has 2"):
        TraceGenerator(distribution).restore(state)
