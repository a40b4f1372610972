"""Units of text, cuts of files and sums of counts, against what they are for."""

import gzip
import os
import tempfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip(
    "apache_beam", reason="apache-beam is not installed; pip install 'tf-dlrm[beam]' brings it."
)

from tfrecords.beam.row_order import RowOrder
from tfrecords.beam.steps import MergeCounts, finish
from tfrecords.beam.units import Unit, cut, lines, state
from tfrecords.conversion.criteo import CriteoFormat
from tfrecords.conversion.vocabulary import Counts
from tfrecords.errors import DataError

LINES = st.lists(st.text("ab", max_size=12), min_size=1, max_size=40)


@settings(deadline=None, max_examples=150)
@given(LINES, st.integers(1, 60), st.booleans(), st.integers(0, 3))
def test_units_hold_every_line_once(written, unit_bytes, ends_with_newline, skipped):
    text = "\n".join(written).encode() + (b"\n" if ends_with_newline or not written[-1] else b"")
    skipped = min(skipped, len(written) - 1)
    begin = sum(len(line) + 1 for line in written[:skipped])
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "text")
        with open(path, "wb") as file:
            file.write(text)
        units = cut([state(path)], CriteoFormat(), unit_bytes)
        found = []
        for unit in units:
            for piece in lines(unit, begin):
                start, part = piece.start, piece.data
                assert text[start : start + len(part)] == part.removesuffix(b"\n") + (
                    b"\n" if start + len(part) <= len(text) else b""
                )
                found += part.split(b"\n")[:-1]
    assert found == [line.encode() for line in written[skipped:]]


def test_compressed_files_are_one_unit(tmp_path):
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"one\ntwo"))
    units = cut([state(str(path))], CriteoFormat(), 10)
    assert units == [Unit(0, str(path), 0, None)]
    assert b"".join(piece.data for piece in lines(units[0])) == b"one\ntwo\n"


def test_a_file_without_lines_is_refused(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"x" * (3 << 20))
    with pytest.raises(DataError, match="holds a line of more than"):
        list(lines(Unit(0, str(path), 0, 3 << 20)))


@pytest.mark.parametrize(
    ("starts", "stop", "rows_per_file"),
    [((0,), 1000, 100), ((0, 300, 700), 1000, 64), ((0, 1, 2, 990), 1000, 7), ((5, 9), 60, 100)],
)
@pytest.mark.parametrize("seed", [None, 4])
def test_files_are_consecutive_parts_of_the_order(starts, stop, rows_per_file, seed):
    order = RowOrder.of(starts, stop, seed, rows_per_file)
    rows = np.arange(starts[0], stop)
    expected: np.ndarray = np.empty(len(rows), np.int64)
    expected[order.permutation(rows)] = np.arange(len(rows)) // rows_per_file
    files = order.files(rows)
    assert files.tolist() == expected.tolist()
    if seed is not None:
        # Shuffled within the parts, and only there.
        permuted = rows[order.permutation(rows)]
        assert (permuted != rows).any()
        ends = (*starts[1:], stop)
        for start, end in zip(starts, ends, strict=True):
            part = permuted[start - starts[0] : end - starts[0]]
            assert sorted(part) == list(range(start, end))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.integers(0, 20), max_size=20), max_size=12), st.randoms())
def test_counts_add_up_in_any_order(pieces, rng):
    added = []
    first: dict[int, int] = {}
    for number, piece in enumerate(pieces):
        keys, firsts, counts = np.unique(
            np.array(piece, np.uint64), return_index=True, return_counts=True
        )
        added.append(Counts(keys, counts, firsts + 100 * number))
        for key, position in zip(keys.tolist(), firsts.tolist(), strict=True):
            first.setdefault(key, 100 * number + position)
    rng.shuffle(added)
    combine = MergeCounts()
    accumulators = [combine.create_accumulator() for _ in range(3)]
    for counts in added:
        index = rng.randrange(3)
        accumulators[index] = combine.add_input(accumulators[index], counts)
    merged = combine.extract_output(
        combine.merge_accumulators([combine.compact(part) for part in accumulators])
    )
    everything = [key for piece in pieces for key in piece]
    assert dict(zip(merged.keys.tolist(), merged.counts.tolist(), strict=True)) == {
        key: everything.count(key) for key in set(everything)
    }
    assert dict(zip(merged.keys.tolist(), merged.ranks.tolist(), strict=True)) == first


def test_an_input_that_changes_while_it_is_read_is_found_before_the_end(tmp_path):
    path = tmp_path / "in.txt"
    path.write_text("one\n")
    before = [state(str(path))]
    path.write_text("one\ntwo\n")
    with pytest.raises(DataError, match="in.txt changed while it was read: it has 8 bytes"):
        finish(before, None, None, [], [], None, None, None)
