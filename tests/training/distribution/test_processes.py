"""What processes tell each other, and the checkpoint that they write together.

The processes are threads here, which exchange numbers where real ones let TensorFlow do it;
tests/distributed has real ones.
"""

import concurrent.futures
import threading

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.errors import UserError
from tf_dlrm.training.distribution.processes import Processes
from tf_dlrm.training.distribution.sharded_checkpoint import ShardedCheckpoint

_SECONDS = 60


class _Meeting:
    """Where the threads exchange rows."""

    def __init__(self, count):
        self.barrier = threading.Barrier(count, timeout=_SECONDS)
        self.rows = [None] * count


class _Thread(Processes):
    def __init__(self, index, meeting):
        super().__init__(tf.distribute.get_strategy())
        self.index, self.count = index, len(meeting.rows)
        self._meeting = meeting

    def _gather(self, numbers):
        self._meeting.rows[self.index] = np.array(numbers, np.int64)
        self._meeting.barrier.wait()
        gathered = np.stack(self._meeting.rows)
        self._meeting.barrier.wait()
        return gathered


def _all(count, function):
    """Calls a function with each of the processes; returns results, or what they raised."""

    def call(process):
        try:
            return function(process)
        except (UserError, OSError, tf.errors.OpError) as error:
            return error

    meeting = _Meeting(count)
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return list(pool.map(call, [_Thread(k, meeting) for k in range(count)]))


def test_numbers_and_texts_of_all():
    assert _all(3, lambda p: p.least([7, 5, 9][p.index])) == [5] * 3
    assert _all(3, lambda p: p.any(p.index == 1)) == [True] * 3
    assert _all(3, lambda p: p.any(False)) == [False] * 3
    texts = ["", "grün", "a longer one"]
    assert _all(3, lambda p: p.texts(texts[p.index])) == [texts] * 3
    assert _all(2, lambda p: p.texts("")) == [["", ""]] * 2
    assert _all(3, lambda p: p.is_first) == [True, False, False]


def test_what_differs_is_refused_by_all_with_both_values():
    values = [{"a": "1", "b": "x"}, {"a": "1", "b": "x"}, {"a": "1", "b": "y"}]
    errors = _all(3, lambda p: p.check_equal(values[p.index]))
    assert [str(error) for error in errors] == [
        "b is 'x' in worker 0, but 'y' in worker 2; all workers need the same."
    ] * 3
    assert _all(2, lambda p: p.check_equal(values[0])) == [None] * 2
    more = [{"a": "1"}, {"a": "1", "c": "2"}]
    assert "c is None in worker 0, but '2' in worker 1" in str(
        _all(2, lambda p: p.check_equal(more[p.index]))[0]
    )


@pytest.fixture
def checkpoint(tmp_path):
    """Returns a function that lets processes write a checkpoint, and the names it told."""
    told = []

    def write(count, broken=None):
        def own(process):
            variable = tf.Variable([1.0, 2.0 + process.index])
            made = ShardedCheckpoint(process, variable=variable)
            if process.index == broken:
                made._write_part = _raise
            options = tf.train.CheckpointOptions(experimental_write_callbacks=[told.append])
            return made.write(str(tmp_path / "checkpoint-5"), options)

        return _all(count, own)

    return write, told


def _raise(prefix):
    raise tf.errors.ResourceExhaustedError(None, None, "the disk is full")


def test_what_all_have_is_the_firsts(checkpoint, tmp_path):
    write, told = checkpoint
    path = str(tmp_path / "checkpoint-5")
    assert write(2) == [path] * 2
    found = tf.train.load_checkpoint(path).get_tensor("variable/.ATTRIBUTES/VARIABLE_VALUE")
    np.testing.assert_array_equal(found, [1.0, 2.0])
    assert [entry if isinstance(entry, str) else entry.decode() for entry in told] == [path]
    assert not list(tmp_path.glob("*_temp"))


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_a_checkpoint_of_which_a_part_is_missing_is_none(checkpoint, tmp_path, broken):
    write, told = checkpoint
    errors = write(3, broken)
    for index, error in enumerate(errors):
        if index == broken:
            assert isinstance(error, tf.errors.ResourceExhaustedError)
        else:
            assert str(error).startswith(f"worker {broken} could not write its part of ")
    assert told == []
    assert not list(tmp_path.glob("checkpoint-5.*"))
