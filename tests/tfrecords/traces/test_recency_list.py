import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrecords.traces.recency_list import RecencyList


def _one_by_one(items, positions):
    taken = []
    for position in positions:
        taken.append(items.pop(position - 1))
        items.insert(0, taken[-1])
    return taken


_ACCESSES = st.integers(1, 30).flatmap(
    lambda size: st.tuples(st.just(size), st.lists(st.integers(1, size), max_size=100))
)


@settings(max_examples=300, deadline=None)
@given(_ACCESSES, st.integers(0, 100))
def test_equal_to_moving_one_item_at_a_time(accesses, cut):
    size, positions = accesses
    recency, expected = RecencyList(np.arange(size) * 3), list(range(0, size * 3, 3))
    # In two parts: the list after the first is where the second begins.
    taken = [recency.take(np.array(p, np.int64)) for p in (positions[:cut], positions[cut:])]
    assert np.concatenate(taken).tolist() == _one_by_one(expected, positions)
    assert recency.items.tolist() == expected


def test_several_chunks():
    rng = np.random.default_rng(3)
    for size in (5, 3000):
        positions = np.minimum(rng.geometric(0.01, 20_000), size)
        positions[rng.random(20_000) < 0.2] = size
        recency, expected = RecencyList(np.arange(size)), list(range(size))
        assert recency.take(positions).tolist() == _one_by_one(expected, positions.tolist())
        assert recency.items.tolist() == expected
