"""Units of text, cuts of files and packed rows, against what they are for."""

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

from tfrecords.beam import packing
from tfrecords.beam.counting import MergeCounts, in_parts
from tfrecords.beam.file_cuts import RowOrder, file_cuts
from tfrecords.beam.finish import Finish
from tfrecords.beam.units import Unit, cut, states, texts
from tfrecords.conversion.criteo import CriteoFormat
from tfrecords.conversion.vocabulary import Counts
from tfrecords.errors import DataError
from tfrecords.schema import CategoricalColumn, Schema

LINES = st.lists(st.text("ab", max_size=12), min_size=1, max_size=40)


@settings(deadline=None, max_examples=150)
@given(LINES, st.integers(1, 60), st.booleans(), st.integers(0, 3))
def test_units_hold_every_line_once(lines, unit_bytes, ends_with_newline, skipped):
    text = "\n".join(lines).encode() + (b"\n" if ends_with_newline or not lines[-1] else b"")
    skipped = min(skipped, len(lines) - 1)
    begin = sum(len(line) + 1 for line in lines[:skipped])
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "text")
        with open(path, "wb") as file:
            file.write(text)
        units = cut([path], [len(text)], CriteoFormat(), unit_bytes)
        found = []
        for unit in units:
            for start, part in texts(unit, begin):
                assert text[start : start + len(part)] == part.removesuffix(b"\n") + (
                    b"\n" if start + len(part) <= len(text) else b""
                )
                found += part.split(b"\n")[:-1]
    assert found == [line.encode() for line in lines[skipped:]]


def test_compressed_files_are_one_unit(tmp_path):
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"one\ntwo"))
    units = cut([str(path)], [100], CriteoFormat(), 10)
    assert units == [Unit(0, str(path), 0, None)]
    assert list(texts(units[0])) == [(0, b"one\n"), (4, b"two\n")] or list(texts(units[0])) == [
        (0, b"one\ntwo\n")
    ]


def test_a_file_without_lines_is_refused(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"x" * (3 << 20))
    with pytest.raises(DataError, match="holds a line of more than"):
        list(texts(Unit(0, str(path), 0, 3 << 20)))


@pytest.mark.parametrize(
    ("starts", "stop", "rows_per_file"),
    [((0,), 1000, 100), ((0, 300, 700), 1000, 64), ((0, 1, 2, 990), 1000, 7), ((5, 9), 60, 100)],
)
@pytest.mark.parametrize("seed", [None, 4])
def test_files_are_consecutive_parts_of_the_order(starts, stop, rows_per_file, seed):
    order = RowOrder(starts, stop, seed)
    rows = np.arange(starts[0], stop)
    expected: np.ndarray = np.empty(len(rows), np.int64)
    expected[order.permutation(rows)] = np.arange(len(rows)) // rows_per_file
    files = file_cuts(order, rows_per_file).files(rows)
    assert files.tolist() == expected.tolist()
    if seed is not None:
        # Shuffled within the parts, and only there.
        permuted = rows[order.permutation(rows)]
        assert (permuted != rows).any()
        ends = (*starts[1:], stop)
        for start, end in zip(starts, ends, strict=True):
            part = permuted[start - starts[0] : end - starts[0]]
            assert sorted(part) == list(range(start, end))


def test_rows_with_equal_hashes_go_to_one_file_each(monkeypatch):
    monkeypatch.setattr(
        "tfrecords.beam.file_cuts.hash_numbers",
        lambda seed, rows: (np.asarray(rows) % 3).astype(np.uint64) << np.uint64(60),
    )
    order = RowOrder((0,), 100, 1)
    files = file_cuts(order, 10).files(np.arange(100))
    assert np.bincount(files).tolist() == [10] * 10
    assert (np.diff(files[order.permutation(np.arange(100))]) >= 0).all()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=30), st.randoms())
def test_packed_rows_arrive_at_their_files(bags, rng):
    rows = len(bags)
    schema = Schema(
        ("I1",),
        (
            CategoricalColumn("fixed", 10, hotness=2),
            CategoricalColumn("ragged", 10, hotness=None),
            CategoricalColumn("large", 2**40),
        ),
    )
    features = {
        "dense": np.arange(rows, dtype=np.float32).reshape(rows, 1),
        "fixed": np.arange(2 * rows).reshape(rows, 2) % 10,
        "ragged": (np.array(sum(bags, []), np.int32), np.array([len(bag) for bag in bags])),
        "large": np.arange(rows) + 2**35,
    }
    packed = packing.pack(schema, features, np.full(rows, 0.5, np.float32), np.arange(rows) + 7)
    files = np.array([rng.randrange(4) for _ in range(rows)])
    seen = {}
    for number, part in packing.by_file(schema, packed, files):
        columns = packing.unpack(schema, part)
        ends = np.cumsum(columns["ragged/lengths"])
        for index, row in enumerate(part.rows.tolist()):
            end = int(ends[index])
            start = end - int(columns["ragged/lengths"][index])
            seen[row - 7] = (
                number,
                columns["ragged"][start:end].tolist(),
                columns["fixed"][index].tolist(),
                int(columns["large"][index]),
                float(columns["dense"][index, 0]),
            )
    assert seen == {
        row: (files[row], bags[row], [2 * row % 10, (2 * row + 1) % 10], row + 2**35, float(row))
        for row in range(rows)
    }


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
        parts = [part for _, part in in_parts(0, counts)]
        for part in parts:
            accumulators[index] = combine.add_input(accumulators[index], part)
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
    before = states([str(path)])
    path.write_text("one\ntwo\n")
    finish = Finish(None, None, None, before)
    with pytest.raises(DataError, match="in.txt changed while it was read: it has 8 bytes"):
        finish(None, None, [], [])
