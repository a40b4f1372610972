"""The order of an epoch divided among shards."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrecords.epoch import Shard, epoch_order
from tfrecords.errors import DataError
from tfrecords.order import ordered_batches
from tfrecords.random import RandomSource
from tfrecords.random_schema import random_schema
from tfrecords.reader import RecordSource


def _order(rows, rows_per_block, blocks_per_file, **arguments):
    full, rest = divmod(rows, rows_per_block)
    block_rows = np.array([rows_per_block] * full + [rest] * (rest > 0), np.int64)
    files = np.arange(len(block_rows)) // blocks_per_file
    shard = Shard(*arguments.pop("shard", ()))
    order = epoch_order(block_rows, block_files=files, shard=shard, **arguments)
    return block_rows, order


def _batches(block_rows, order, batch_size, drop=False):
    starts = np.cumsum(block_rows) - block_rows

    def fetch(blocks):
        table = tf.constant(np.stack([starts, block_rows], 1).reshape(-1, 2)[blocks])
        return tf.data.Dataset.from_tensor_slices(table)

    def load(elements, rows):
        numbers = tf.ragged.range(elements[:, 0], elements[:, 0] + elements[:, 1]).flat_values
        return {"row": tf.ensure_shape(numbers, [None])}, tf.cast(numbers, tf.float32)

    dataset = ordered_batches(order, fetch, load, batch_size, drop)
    got = [(f["row"].numpy().tolist(), label.numpy().tolist()) for f, label in dataset]
    assert len(dataset) == len(got)
    assert all(row == label for row, label in got)
    return [row for row, _ in got]


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 300),
    rows_per_block=st.integers(1, 20),
    blocks_per_file=st.integers(1, 6),
    window=st.integers(8, 160),
    seed=st.sampled_from([None, 3]),
    by=st.sampled_from(["row", "block", "file"]),
    batch_size=st.integers(1, 40),
    drop=st.booleans(),
    data=st.data(),
)
def test_shards_together_are_the_order(
    rows, rows_per_block, blocks_per_file, window, seed, by, batch_size, drop, data
):
    first_row = data.draw(st.integers(0, rows))
    common = {"shuffle_seed": seed, "epoch": 1, "shuffle_window_rows": window}
    count = data.draw(st.integers(1, 3))
    if by == "block":
        per_window = max(1, round((window if seed else 65_536) / min(rows, rows_per_block)))
        count = 2 if per_window > 1 else 1
    # By file, the order is a function of the number of shards, so no single reader has it.
    shapes = (rows, rows_per_block, blocks_per_file)
    block_rows, whole = _order(*shapes, first_row=0, shard=(0, 1, by), **common)
    shards = []
    for index in range(count):
        _, order = _order(*shapes, first_row=first_row, shard=(index, count, by), **common)
        shards.append(_batches(block_rows, order, batch_size, drop))
    assert len({len(shard) for shard in shards}) == 1
    for step in zip(*shards, strict=True):
        sizes = [len(batch) for batch in step]
        assert max(sizes) - min(sizes) <= 1
    left = rows - first_row
    together = [row for shard in shards for batch in shard for row in batch]
    assert len(together) == (left // (batch_size * count) * batch_size * count if drop else left)
    assert len(set(together)) == len(together)
    if by == "file":
        return
    expected = [row for batch in _batches(block_rows, whole, 1000) for row in batch]
    assert sorted(expected) == list(range(rows))
    for index, shard in enumerate(shards):
        mine = [expected[p] for p in range(first_row, rows) if p % count == index]
        got = [row for batch in shard for row in batch]
        assert got == mine[: len(got)]


@pytest.mark.parametrize("by", ["row", "block"])
def test_a_run_goes_on_with_another_number_of_workers(numbered, read_all, by):
    source = RecordSource(numbered(1003)[0], shuffle_window_rows=200)

    def rows(count, steps=None, first_row=0, batch_size=12):
        found = []
        for index in range(count):
            dataset = source.batches(
                "train",
                batch_size,
                shuffle_seed=5,
                first_row=first_row,
                shard_index=index,
                shard_count=count,
                shard_by=by,
            )
            for features, _ in dataset.take(-1 if steps is None else steps):
                found += features["row_id"].numpy().tolist()
        return found

    seen = rows(2, steps=7)
    assert len(seen) == 7 * 2 * 12
    rest = rows(4, first_row=len(seen), batch_size=6)
    assert sorted(seen + rest) == list(range(1003))


@pytest.mark.parametrize(("by", "seed"), [("block", 1), ("block", None), ("file", 1)])
def test_a_shard_reads_blocks_of_its_own(by, seed):
    common = {
        "shuffle_seed": seed,
        "epoch": 0,
        "shuffle_window_rows": 64 if seed else 1,
        "first_row": 0,
    }
    rows = 8 * 8192 * 4 if seed is None else 8 * 32
    per_block = rows // 32
    read = []
    for index in range(2):
        _, order = _order(rows, per_block, 4, shard=(index, 2, by), **common)
        read.append(np.concatenate([part.blocks for part in order.parts]))
        assert order.rows == rows // 2
        if by == "file":
            assert len(set(read[-1] // 4)) == 4
    assert sorted(np.concatenate(read)) == list(range(32))


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
