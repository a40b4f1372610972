import gc
import json
import os

import numpy as np
import pytest
import tensorflow as tf

from tfrecords.epoch import Shard, epoch_order
from tfrecords.errors import DataError
from tfrecords.reader import RecordSource

_ROWS = 1003


def _equal_rows(got, features, label, order):
    np.testing.assert_array_equal(got[0]["dense"], features["dense"][order])
    for name in ("row_id", "many", "pair"):
        np.testing.assert_array_equal(got[0][name], features[name][order])
    values, lengths = features["bag"]
    bags = np.split(values, np.cumsum(lengths)[:-1])
    assert got[0]["bag"] == [bags[row].tolist() for row in order]
    np.testing.assert_array_equal(got[1], label[order])


@pytest.mark.parametrize("rows", [1, 50, _ROWS])
def test_file_order_gives_back_what_was_written(numbered, read_all, rows):
    path, features, label = numbered(rows)
    source = RecordSource(path)
    assert source.rows("train") == rows
    _equal_rows(read_all(source, "train", 64), features, label, np.arange(rows))


def test_types_and_shapes(numbered):
    source = RecordSource(numbered(100)[0])
    features, label = source.batches("train", 8).element_spec
    assert (features["dense"].dtype, features["dense"].shape.as_list()) == (tf.float32, [None, 2])
    assert (features["row_id"].dtype, features["row_id"].shape.as_list()) == (tf.int32, [None])
    assert features["many"].dtype == tf.int64
    assert features["pair"].shape.as_list() == [None, 2]
    assert isinstance(features["bag"], tf.RaggedTensorSpec)
    assert (label.dtype, label.shape.as_list()) == (tf.float32, [None])


def test_a_shuffled_epoch_holds_each_row_once(numbered, read_all):
    path, features, label = numbered(_ROWS)
    got = read_all(RecordSource(path, shuffle_window_rows=120), "train", 64, shuffle_seed=3)
    order = got[0]["row_id"]
    assert sorted(order) == list(range(_ROWS))
    assert (order != np.arange(_ROWS)).mean() > 0.9
    _equal_rows(got, features, label, order)


def test_the_order_is_a_function_of_seed_and_epoch(numbered, order_of):
    # Blocks: what training in the order of another epoch, or of none, would get wrong.
    source = RecordSource(numbered(56, rows_per_record=8)[0], shuffle_window_rows=16)

    def blocks(**arguments):
        return order_of(source, "train", **arguments).parts[0].blocks.tolist()

    assert blocks(shuffle_seed=5, epoch=0) == [3, 5, 2, 4, 6, 0, 1]
    assert blocks(shuffle_seed=5, epoch=1) == [4, 2, 0, 5, 1, 3, 6]
    assert blocks(shuffle_seed=6, epoch=0) == [5, 6, 4, 3, 2, 1, 0]
    assert blocks(epoch=0) == blocks(epoch=1) == list(range(7))


@pytest.mark.parametrize("shard", [(0, 1, "row"), (2, 3, "row"), (1, 2, "block"), (1, 2, "file")])
def test_the_arguments_reach_the_order(numbered, order_of, shard):
    path = numbered(60, rows_per_record=8, records_per_file=3)[0]
    source = RecordSource(path, shuffle_window_rows=16)
    index, count, by = shard
    common = {"shuffle_seed": 5, "epoch": 2, "first_row": 11}
    got = order_of(source, "train", shard_index=index, shard_count=count, shard_by=by, **common)
    wanted = epoch_order(
        np.array([8] * 7 + [4]),
        shuffle_window_rows=16,
        shard=Shard(*shard),
        block_files=np.array([0, 0, 0, 1, 1, 1, 2, 2]),
        **common,
    )
    assert str(got) == str(wanted)


@pytest.mark.slow
def test_datasets_that_are_gone_leave_no_graph(numbered):
    source = RecordSource(numbered(500)[0])

    def graphs():
        gc.collect()
        return sum(type(thing).__name__ == "FuncGraph" for thing in gc.get_objects())

    def read(epoch):
        assert len(list(source.batches("train", 64, shuffle_seed=1, epoch=epoch))) == 8

    read(0)
    before = graphs()
    for epoch in range(1, 5):
        read(epoch)
    assert graphs() == before


def test_the_order_never_changes(numbered, read_all):
    # A resumed run relies on it, whatever was upgraded in between.
    source = RecordSource(numbered(40, rows_per_record=8)[0], shuffle_window_rows=16)
    order = read_all(source, "train", 64, shuffle_seed=5, epoch=2)[0]["row_id"].tolist()
    assert order == [
        *(11, 25, 29, 9, 24, 30, 15, 26, 12, 14, 28, 8, 31, 27, 10, 13, 3, 18, 20, 19, 4, 0, 22, 6),
        *(23, 17, 7, 5, 16, 21, 2, 1, 34, 39, 33, 35, 37, 32, 38, 36),
    ]


@pytest.mark.parametrize(("seed", "window", "first_row"), [(None, 50, _ROWS), (4, 170, 640)])
def test_reading_goes_on_at_any_row(numbered, read_all, seed, window, first_row):
    source = RecordSource(numbered(_ROWS)[0], shuffle_window_rows=window)
    whole, whole_label = read_all(source, "train", 64, shuffle_seed=seed, epoch=1)
    rest, rest_label = read_all(
        source, "train", 33, shuffle_seed=seed, epoch=1, first_row=first_row
    )
    np.testing.assert_array_equal(rest_label, whole_label[first_row:])
    for name in rest:
        assert list(map(str, rest[name])) == list(map(str, whole[name][first_row:])), name


def test_windows_before_the_first_row_are_not_read(numbered):
    path, _, _ = numbered(_ROWS, records_per_file=1)
    source = RecordSource(path)
    for record in range(10):
        os.remove(os.path.join(path, f"train-{record:05d}.tfrecord"))
    # Windows of file order have 65,536 rows, so the rows of the removed files are asked for.
    with pytest.raises(tf.errors.OpError):
        list(source.batches("train", 64, first_row=500))
    shuffled = RecordSource(numbered(_ROWS, records_per_file=1)[0], shuffle_window_rows=50)
    first_batch = next(iter(shuffled.batches("train", 50, shuffle_seed=0)))[0]["row_id"].numpy()
    os.remove(os.path.join(path, f"train-{first_batch[0] // 50:05d}.tfrecord"))
    later = sum(
        len(label) for _, label in shuffled.batches("train", 50, shuffle_seed=0, first_row=50)
    )
    assert later == _ROWS - 50


@pytest.mark.parametrize(("drop", "sizes"), [(False, [64, 64, 22]), (True, [64, 64])])
def test_the_last_batch(numbered, drop, sizes):
    dataset = RecordSource(numbered(150)[0]).batches("train", 64, drop_remainder=drop)
    assert len(dataset) == len(sizes)
    assert [len(label) for _, label in dataset] == sizes


def test_no_dense_columns(tmp_path, read_all):
    from tfrecords.schema import CategoricalColumn, Schema
    from tfrecords.writer import DatasetWriter

    path = str(tmp_path / "set")
    with DatasetWriter(path, Schema((), (CategoricalColumn("a", 9),))) as writer:
        writer.write("train", {"a": np.arange(9)}, np.zeros(9))
    features, _ = read_all(RecordSource(path), "train")
    assert list(features) == ["a"] and features["a"].tolist() == list(range(9))


def test_arguments_that_are_not_allowed(numbered):
    source = RecordSource(numbered(10)[0])
    for arguments, message in [
        ({"split": "test"}, "has no split 'test'; it has train"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"first_row": 11}, "first_row must lie between 0 and the number of rows, 10, not 11"),
        ({"epoch": -1}, "epoch must be at least 0, not -1"),
    ]:
        with pytest.raises(DataError, match=message):
            source.batches(**{"split": "train", "batch_size": 4, **arguments})


def test_folders_that_are_no_data_set(tmp_path, numbered):
    with pytest.raises(DataError, match="There is no data set folder"):
        RecordSource(str(tmp_path / "missing"))
    with pytest.raises(DataError, match="has no dataset.json"):
        RecordSource(str(tmp_path))
    path, _, _ = numbered(10)
    info = os.path.join(path, "dataset.json")
    with open(info) as file:
        good = json.load(file)
    for content, message in [
        ("{", "is not JSON"),
        ("[]", "'format' is not"),
        (
            json.dumps({**good, "version": 2}),
            "is of format version 2; this program reads version 1",
        ),
        (json.dumps({**good, "schema": {}}), "cannot be used: The schema cannot be read"),
    ]:
        with open(info, "w") as file:
            file.write(content)
        with pytest.raises(DataError, match=message):
            RecordSource(path)


def test_the_fingerprint_follows_the_content(numbered):
    first = RecordSource(numbered(100, name="a")[0]).fingerprint
    assert RecordSource(numbered(100, name="b")[0]).fingerprint == first
    assert RecordSource(numbered(101, name="c")[0]).fingerprint != first
