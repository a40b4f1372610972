import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrecords.errors import DataError
from tfrecords.traces.stack_distance import stack_distances

_TRACES = st.integers(1, 40).flatmap(lambda ids: st.lists(st.integers(0, ids), max_size=300))


def _by_a_stack(trace):
    stack, distances = [], []
    for access in trace:
        if access in stack:
            position = stack.index(access)
            distances.append(len(stack) - position)
            stack.pop(position)
        else:
            distances.append(0)
        stack.append(access)
    return distances


@settings(max_examples=300, deadline=None)
@given(_TRACES)
def test_equal_to_a_stack(trace):
    assert stack_distances(np.array(trace, np.int64)).tolist() == _by_a_stack(trace)


def test_the_samples_of_the_reference():
    assert stack_distances(np.array([1, 2, 3, 4, 5, 3, 4, 1, 1, 6, 3])).tolist() == [
        *(0, 0, 0, 0, 0),
        *(3, 3, 5, 1, 0, 4),
    ]
    assert stack_distances(np.array([7, 7, 7, 7])).tolist() == [0, 1, 1, 1]
    assert stack_distances(np.array([9])).tolist() == [0]
    assert stack_distances(np.zeros(0, np.uint64)).tolist() == []


def test_ids_above_the_signed_range():
    trace = np.array([2**64 - 1, 2**63, 2**64 - 1], np.uint64)
    assert stack_distances(trace).tolist() == [0, 0, 2]


def test_many_accesses_equal_a_stack():
    rng = np.random.default_rng(0)
    trace = np.minimum(rng.zipf(1.3, 20_000), 500)
    assert stack_distances(trace).tolist() == _by_a_stack(trace.tolist())


@pytest.mark.parametrize(
    ("trace", "message"),
    [
        (np.array([3, -2]), r"Access 1 of the trace is -2; ids must lie in \[0, 2\*\*64\)"),
        (np.array([0.5]), "must hold whole numbers, not values of type float64"),
        (np.zeros((2, 2), np.int64), r"one-dimensional \(shape \[accesses\]\), not \(2, 2\)"),
    ],
)
def test_arrays_that_are_no_trace(trace, message):
    with pytest.raises(DataError, match=message):
        stack_distances(trace)
