"""The order of an epoch divided among shards.

`_whole` says what the order is, from the documentation of `tfrecords.epoch`, and `_played` what a
shard reads, from that of `Windows`: one row at a time, without the code that is tested. A few
orders go through TensorFlow, and a few are written down, since a resumed run relies on them.
"""

from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrecords import epoch as epoch_module
from tfrecords.epoch import Shard, epoch_order
from tfrecords.errors import DataError
from tfrecords.hashing import hash_number
from tfrecords.order import ordered_batches
from tfrecords.random import RandomSource
from tfrecords.random_schema import random_schema
from tfrecords.reader import RecordSource


def _any_shuffle(count, seeds):
    return np.random.default_rng(seeds).permutation(count).tolist()


def _shuffle_of_tensorflow(count, seeds):
    numbers = tf.range(count)
    return tf.random.experimental.stateless_shuffle(numbers, seeds, alg="philox").numpy().tolist()


def _whole(sizes, files, seed, epoch, window, by, count, shuffle=_any_shuffle):
    """The rows of an epoch in the order of all shards."""
    largest, blocks = max(sizes, default=1), list(range(len(sizes)))
    if seed is not None:
        blocks.sort(key=lambda block: hash_number(seed, epoch, block))
    per_window = max(1, round(window / largest))
    whole = [block for block in blocks if sizes[block] == largest]
    dealt = []  # windows of lanes of blocks
    if by == "block":
        per_window = max(2**k for k in range(20) if 2**k <= per_window)
        while len(whole) >= per_window:
            dealt.append([[whole.pop(0)] for _ in range(per_window)])
    elif by == "file":
        per_lane = max(1, per_window // count)
        per_window = per_lane * count
        names = sorted(set(files))
        if seed is not None:
            names.sort(key=lambda file: hash_number(seed, epoch, file, 4))
        lanes = [[] for _ in range(count)]
        for file in sorted(names, key=lambda file: -sum(files[block] == file for block in whole)):
            shortest = min(lanes, key=len)
            shortest += [block for block in whole if files[block] == file]
        lanes = [[block for block in whole if block in lane] for lane in lanes]
        while min(map(len, lanes)) >= per_lane:
            dealt.append([[lane.pop(0) for _ in range(per_lane)] for lane in lanes])
    gone = {block for lanes in dealt for lane in lanes for block in lane}
    rest = [block for block in blocks if block not in gone]
    plain = [[rest[i : i + per_window]] for i in range(0, len(rest), per_window)]
    order = []
    for number, lanes in enumerate([*dealt, *plain]):
        rows = [[row for block in lane for row in _rows_of(sizes, block)] for lane in lanes]
        length = len(rows[0])
        places, turns = list(range(length)), [0] * len(lanes)
        if seed is not None:
            places = shuffle(length, [hash_number(seed, epoch, number, k) >> 1 for k in (1, 2)])
            if number < len(dealt):
                turns = [hash_number(seed, epoch, number, 3, k) % length for k in range(len(lanes))]
        for i in range(length):
            for lane, turn in zip(rows, turns, strict=True):
                order.append(lane[places[(i + turn) % length]])
    return order


def _rows_of(sizes, block):
    return range(sum(sizes[:block]), sum(sizes[: block + 1]))


def _played(order, sizes, shuffle=_any_shuffle):
    """The rows that a shard gets."""
    got = []
    for part in order.parts:
        blocks = part.blocks.tolist()
        for window in range(len(part.rows)):
            mine, blocks = blocks[: part.per_window], blocks[part.per_window :]
            loaded = [row for block in mine for row in _rows_of(sizes, block)]
            assert len(loaded) == part.rows[window]
            length = len(loaded) // part.lanes
            places = list(range(length))
            if part.shuffled:
                places = shuffle(length, part.seeds[window].tolist())
            said = []
            for i in range(len(loaded)):
                lane = i % part.lanes
                turn = int(part.offsets[window][lane]) if part.dealt else 0
                said.append(loaded[lane * length + places[(i // part.lanes + turn) % length]])
            said = said[part.first[window] :: part.stride]
            assert not part.in_order or said == loaded[part.first[window] :]
            got += said
        assert not blocks
    assert len(got) == order.rows
    return got


def _order(sizes, files, seed, epoch, window, shard, first_row):
    with mock.patch.object(epoch_module, "_FILE_ORDER_WINDOW_ROWS", window):
        return epoch_order(
            np.array(sizes, np.int64),
            shuffle_seed=seed,
            epoch=epoch,
            first_row=first_row,
            shuffle_window_rows=window,
            shard=shard,
            block_files=np.array(files, np.int64),
        )


@st.composite
def _epochs(draw):
    largest = draw(st.integers(1, 9))
    size = st.just(largest) | st.just(largest) | st.integers(1, largest)
    sizes = draw(st.lists(size, max_size=40))
    files = sorted(draw(st.integers(0, 6)) for _ in sizes)
    window = draw(st.integers(1, 8 * largest))
    by = draw(st.sampled_from(["row", "block", "file"]))
    counts = [1, 2, 3, 4]
    if by == "block":
        blocks = max(1, round(window / max(sizes, default=1)))
        counts = [count for count in (1, 2, 4) if count <= blocks]
    count = draw(st.sampled_from(counts))
    seed = draw(st.none() | st.integers(-(2**63), 2**63))
    return sizes, files, seed, draw(st.integers(0, 5)), window, by, count


@settings(max_examples=200)
@given(_epochs(), st.data())
def test_a_shard_has_the_positions_that_are_its_own(arguments, data):
    sizes, files, seed, epoch, window, by, count = arguments
    whole = _whole(*arguments)
    assert sorted(whole) == list(range(sum(sizes)))
    first_row = data.draw(st.integers(0, len(whole)))
    batch_size = data.draw(st.integers(1, 12))
    left = len(whole) - first_row
    for index in range(count):
        shard = Shard(index, count, by)
        order = _order(sizes, files, seed, epoch, window, shard, first_row)
        mine = [whole[p] for p in range(first_row, len(whole)) if p % count == index]
        assert _played(order, sizes) == mine
        assert order.batches(batch_size, True) == left // (batch_size * count)
        assert order.batches(batch_size, False) == -(-left // (batch_size * count))


def _batches(sizes, order, batch_size, drop=False):
    """What TensorFlow makes of an order."""
    table = np.array([[_rows_of(sizes, b).start, sizes[b]] for b in range(len(sizes))], np.int64)

    def fetch(blocks):
        return tf.data.Dataset.from_tensor_slices(tf.constant(table.reshape(-1, 2)[blocks]))

    def load(elements, rows):
        numbers = tf.ragged.range(elements[:, 0], elements[:, 0] + elements[:, 1]).flat_values
        return {"row": tf.ensure_shape(numbers, [None])}, tf.cast(numbers, tf.float32)

    dataset = ordered_batches(order, fetch, load, batch_size, drop)
    got = [(f["row"].numpy().tolist(), label.numpy().tolist()) for f, label in dataset]
    assert len(dataset) == len(got)
    assert all(row == label for row, label in got)
    return [row for row, _ in got]


_SIZES = [7] * 5 + [3] + [7] * 6 + [5]  # 85 rows
_FILES = [0] * 3 + [1] * 2 + [2] * 4 + [3] * 4


@pytest.mark.parametrize(
    ("by", "index", "count", "seed", "first_row", "batch_size", "drop"),
    [
        ("row", 0, 1, None, 9, 8, False),
        ("row", 1, 3, 4, 20, 5, True),
        ("row", 2, 3, None, 0, 4, False),
        ("block", 1, 2, 4, 11, 6, False),
        ("file", 0, 2, 4, 0, 6, True),
        ("file", 1, 2, None, 30, 9, False),
    ],
)
def test_tensorflow_reads_the_order(by, index, count, seed, first_row, batch_size, drop):
    order = _order(_SIZES, _FILES, seed, 3, 29, Shard(index, count, by), first_row)
    rows = _played(order, _SIZES, _shuffle_of_tensorflow)
    batches = order.batches(batch_size, drop)
    wanted = [rows[k * batch_size : (k + 1) * batch_size] for k in range(batches)]
    assert _batches(_SIZES, order, batch_size, drop) == wanted


def test_the_last_step_of_a_shard_may_have_no_row():
    orders = [_order(_SIZES, _FILES, None, 0, 29, Shard(index, 3), 84) for index in (0, 1)]
    assert [_batches(_SIZES, order, 4) for order in orders] == [[[84]], [[]]]


# Made by `_whole`, and never to change: a run that goes on after an upgrade relies on them.
_PINNED = {
    ("row", 1, 0): "15 6 13 14 17 9 7 11 16 12 8 10 28 18 2 1 0 26 19 24 27 20 25 23 22 21 5 4 3",
    ("row", 1, 1): "6 23 13 24 21 26 7 12 22 8 25 14 5 0 15 16 28 27 17 4 1 2 3 18 20 19 9 10 11",
    ("block", 1, 0): "10 15 8 14 11 16 6 12 9 17 7 13 20 0 26 23 18 1 24 21 19 2 25 22 5 27 28 4 3",
    ("block", 1, 1): "14 25 22 7 13 24 21 6 12 26 23 8 1 15 5 9 2 16 3 10 0 17 4 11 18 20 27 28 19",
    ("file", 2, 0): "11 12 10 17 8 16 9 14 7 15 6 13 3 26 0 19 2 24 4 18 5 20 1 25 23 27 28 22 21",
    ("file", 2, 1): "7 25 1 12 6 14 8 26 2 24 0 13 4 16 3 15 10 17 9 23 11 22 5 21 18 20 27 28 19",
    ("file", 3, 0): "10 18 17 11 19 15 9 20 16 8 24 14 6 25 12 7 26 13 0 22 28 21 1 27 2 23 5 3 4",
    ("file", 3, 1): "8 25 13 7 24 12 6 26 14 1 21 17 2 22 15 0 23 16 11 5 3 27 4 9 10 28 20 18 19",
}


@pytest.mark.parametrize(("by", "count", "epoch"), _PINNED)
def test_the_order_never_changes(by, count, epoch):
    sizes, files = [3] * 9 + [2], [0, 0, 0, 0, 1, 1, 2, 2, 2, 3]
    arguments = sizes, files, 5, epoch, 12
    pinned = list(map(int, _PINNED[by, count, epoch].split()))
    assert _whole(*arguments, by, count, _shuffle_of_tensorflow) == pinned
    shards = [_order(*arguments, Shard(index, count, by), 0) for index in range(count)]
    for index, order in enumerate(shards):
        assert _played(order, sizes, _shuffle_of_tensorflow) == pinned[index::count]


@pytest.mark.parametrize("by", ["row", "block"])
def test_a_run_goes_on_with_another_number_of_workers(by):
    sizes, files = [50] * 20 + [3], [block // 3 for block in range(21)]

    def rows(count, steps, first_row, batch_size):
        shards = [
            _played(_order(sizes, files, 5, 0, 200, Shard(i, count, by), first_row), sizes)
            for i in range(count)
        ]
        return sorted(row for shard in shards for row in shard[: steps * batch_size])

    whole = _whole(sizes, files, 5, 0, 200, by, 1)
    seen = rows(2, 7, 0, 12)
    assert len(seen) == 7 * 2 * 12 and seen == sorted(whole[: len(seen)])
    assert sorted(seen + rows(4, 1000, len(seen), 6)) == list(range(1003))


@pytest.mark.parametrize(("by", "seed"), [("block", 1), ("block", None), ("file", 1)])
def test_a_shard_reads_blocks_of_its_own(by, seed):
    # Windows of file order have 65,536 rows.
    rows, window = (8 * 8192 * 4, 1) if seed is None else (8 * 32, 64)
    read = []
    for index in range(2):
        order = epoch_order(
            np.full(32, rows // 32),
            shuffle_seed=seed,
            epoch=0,
            first_row=0,
            shuffle_window_rows=window,
            shard=Shard(index, 2, by),
            block_files=np.arange(32) // 4,
        )
        read.append(np.concatenate([part.blocks for part in order.parts]))
        assert order.rows == rows // 2
        if by == "file":
            assert len(set(read[-1] // 4)) == 4
    assert sorted(np.concatenate(read)) == list(range(32))


def test_files_of_one_size_go_to_other_shards_in_other_epochs():
    def files_of_the_first_shard(epoch):
        order = epoch_order(
            np.full(16, 4),
            shuffle_seed=3,
            epoch=epoch,
            first_row=0,
            shuffle_window_rows=16,
            shard=Shard(0, 2, "file"),
            block_files=np.arange(16) // 2,
        )
        return {int(block) // 2 for part in order.parts for block in part.blocks}

    read = [files_of_the_first_shard(epoch) for epoch in range(6)]
    for files in read:
        assert len(files) == 4
    # 70 ways to choose them.
    assert len({frozenset(files) for files in read}) > 3


def test_shards_that_are_not_allowed(numbered):
    source = RecordSource(numbered(100)[0], shuffle_window_rows=200)
    for arguments, message in [
        ({"shard_count": 0}, "shard_count must be at least 1, not 0"),
        ({"shard_index": 2, "shard_count": 2}, "shard_index must lie between 0 and .*1, not 2"),
        ({"shard_by": "day"}, "shard_by must be one of row, block, file, not 'day'"),
        ({"shard_count": 3, "shard_by": "block"}, "needs a shard_count that divides 4"),
    ]:
        with pytest.raises(DataError, match=message):
            source.batches("train", 4, shuffle_seed=1, **arguments)


def test_reading_logs_no_errors_of_tensorflow(capfd):
    # Batches that lie across two windows: see `rebatching.rebatch`.
    source = RandomSource(
        random_schema([9, 9], 1, 1), {"train": 20_000}, 1, 1.05, "random", shuffle_window_rows=8192
    )
    for seed in (None, 1):
        assert len(list(source.batches("train", 1000, shuffle_seed=seed))) == 20
    assert "RefCount" not in capfd.readouterr().err
