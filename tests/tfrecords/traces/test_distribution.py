import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrecords.errors import DataError
from tfrecords.traces.distribution import Distribution
from tfrecords.traces.trace_file import read_trace, write_trace

_SAMPLE = np.array([1, 2, 3, 4, 5, 3, 4, 1, 1, 6, 3])


def _equal(a, b):
    return all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for name in ("accesses", "distances", "cumulative")
    )


def test_the_sample_of_the_reference(tmp_path):
    distribution = Distribution.of_trace(_SAMPLE)
    assert distribution.accesses.tolist() == [1, 2, 3, 4, 5, 6]
    assert distribution.distances.tolist() == [0, 1, 3, 4, 5]
    np.testing.assert_allclose(distribution.cumulative, np.array([6, 7, 9, 10, 11]) / 11, 1e-15)
    np.testing.assert_allclose(distribution.probabilities, np.array([6, 1, 2, 1, 1]) / 11)
    path = tmp_path / "dist"
    distribution.write(str(path))
    lines = path.read_text().splitlines()
    assert lines[:2] == ["1, 2, 3, 4, 5, 6", "0, 1, 3, 4, 5"]
    assert lines[2].startswith("0.5454545454545454, 0.6363636363636364, 0.8181818181818182, ")
    assert os.listdir(tmp_path) == ["dist"]


@pytest.mark.parametrize(
    ("trace", "distances", "cumulative"),
    [([5], [0], [1.0]), ([5, 6, 7], [0], [1.0]), ([5, 5, 5, 5], [0, 1], [0.25, 1.0])],
)
def test_the_smallest_traces(trace, distances, cumulative):
    distribution = Distribution.of_trace(np.array(trace))
    assert distribution.distances.tolist() == distances
    assert distribution.cumulative.tolist() == cumulative


def test_padding_counts_more_new_accesses():
    # 11 accesses, the largest distance is 5: three more.
    distribution = Distribution.of_trace(_SAMPLE, padding=True)
    np.testing.assert_allclose(distribution.cumulative, np.array([9, 10, 12, 13, 14]) / 14)
    assert distribution.accesses.tolist() == [1, 2, 3, 4, 5, 6]
    # Nothing is repeated: nothing to divide by, and nothing to pad.
    assert Distribution.of_trace(np.array([3, 1]), padding=True).cumulative.tolist() == [1.0]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 9), min_size=1, max_size=60))
def test_files_keep_every_bit(tmp_path_factory, ids):
    folder = tmp_path_factory.mktemp("files")
    trace = np.array(ids, np.uint64)
    for trace_format in ("text", "binary"):
        path = str(folder / trace_format)
        write_trace(path, trace, trace_format)
        assert read_trace(path, trace_format).tolist() == ids
    distribution = Distribution.of_trace(trace)
    distribution.write(str(folder / "distribution"))
    assert _equal(Distribution.read(str(folder / "distribution")), distribution)


def test_rounded_files_of_the_reference_can_be_read(tmp_path):
    path = tmp_path / "rounded"
    path.write_text("1, 2, 3, 4, 5, 6\n0, 1, 3, 4, 5\n0.55, 0.64, 0.82, 0.91, 1.0")
    assert Distribution.read(str(path)).cumulative.tolist() == [0.55, 0.64, 0.82, 0.91, 1.0]
    path.write_text("1, 2\n0, 2\n0.0, 0.99\n")
    assert Distribution.read(str(path)).distances.tolist() == [0, 2]


def test_a_minimum_of_new_accesses():
    distribution = Distribution.of_trace(np.array([4, 4, 4, 4, 5, 4, 4, 4]))
    assert distribution.cumulative[0] == 0.25
    raised = distribution.with_minimum_of_new(0.4)
    np.testing.assert_allclose(raised.probabilities, [0.4, 0.6 * 5 / 6, 0.6 * 1 / 6])
    assert raised.accesses.tolist() == [4, 5]
    assert _equal(distribution.with_minimum_of_new(0.25), distribution)
    with pytest.raises(DataError, match=r"must lie in \[0, 1\), not 1"):
        distribution.with_minimum_of_new(1)


def test_relabelling():
    distribution = Distribution.of_trace(np.array([70, 0, 50, 2, 70]))
    assert distribution.relabelled().accesses.tolist() == [0, 1, 2, 3]
    assert distribution.relabelled(keep=0).accesses.tolist() == [1, 0, 2, 3]
    assert distribution.relabelled(keep=2).accesses.tolist() == [0, 1, 3, 2]
    assert distribution.relabelled(keep=3).accesses.tolist() == [0, 1, 2, 4]
    assert distribution.relabelled().distances.tolist() == distribution.distances.tolist()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1, 2\n0, 1\n", "has 2 lines; it must have three"),
        ("1, x\n0, 1\n.5, 1", "Item 2 of line 1 of .*wrong is 'x'; ids are whole numbers"),
        ("1, -2\n0\n1", "Item 2 of line 1 of .*wrong is '-2'"),
        ("18446744073709551616\n0\n1", "Item 1 of line 1 .* is '18446744073709551616'"),
        ("1, 2\n0, 1.5\n.5, 1", "Item 2 of line 2 of .*wrong is '1.5'"),
        ("1, 2\n0, 1\n.5, one", "Item 2 of line 3 of .*wrong is 'one'; cumulative"),
        ("1, 2\n0, 9223372036854775808\n.5, 1", "stack distance 9223372036854775808; none can be"),
        ("1, 2, 1\n0, 1\n.5, 1", "wrong cannot be used: The id 1 occurs twice"),
        ("\n0, 1\n.5, 1", "wrong cannot be used: The distribution has no ids"),
        ("1, 2\n1, 2\n.5, 1", "begin with 1; the first must be 0"),
        ("1, 2\n\n.5, 1", "are missing; the first must be 0"),
        ("1, 2\n0, 2, 1\n.5, .7, 1", "The stack distance 1 follows 2"),
        ("1, 2\n0, 3\n.5, 1", "3 is larger than the number of different ids, 2"),
        ("1, 2\n0, 1\n.5", "2 stack distances and 1 cumulative probabilities"),
        ("1, 2\n0, 1\n.5, 1.5", r"1.5 lies outside \[0, 1\]"),
        ("1, 2\n0, 1\n.5, nan", r"nan lies outside \[0, 1\]"),
        ("1, 2\n0, 1\n.5, .4", "0.4 follows 0.5; they must not descend"),
        ("1, 2\n0, 1\n.5, .9", "The last cumulative probability is 0.9; it must be 1"),
        ("1, \xe9\n0, 1\n.5, .9", "is no text of numbers: byte 3 is 0xe9"),
    ],
)
def test_files_that_are_no_distribution(tmp_path, text, message):
    path = tmp_path / "wrong"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=message):
        Distribution.read(str(path))


@pytest.mark.parametrize(
    ("content", "trace_format", "message"),
    [
        (b"1, 2\n3\n", "text", "has 2 lines; a text trace is one line"),
        (b"1, 2,\n", "text", "Item 3 of line 1 of .*trace is ''; ids are whole numbers"),
        (b"1, 1_0\n", "text", "Item 2 of line 1 of .*trace is '1_0'"),
        (b"\n", "text", "trace is empty"),
        (b"", "binary", "trace is empty"),
        (b"123456789", "binary", "has 9 bytes; .* multiple of 8"),
    ],
)
def test_files_that_are_no_trace(tmp_path, content, trace_format, message):
    path = tmp_path / "trace"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_trace(str(path), trace_format)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(DataError, match="missing cannot be read: No such file"):
        read_trace(str(tmp_path / "missing"))
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_trace(str(tmp_path / "file" / "trace"), _SAMPLE)
