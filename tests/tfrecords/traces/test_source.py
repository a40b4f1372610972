import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tfrecords.epoch import Shard
from tfrecords.errors import DataError
from tfrecords.reader import RecordSource
from tfrecords.traces.miss_ratio import compare
from tfrecords.traces.source import SyntheticSource
from tfrecords.traces.stack_distance import stack_distances
from tfrecords.traces.twin import Twin

_NAMES = ("dense", "local", "pair", "bag/of", "nothing")


def _read(source, split="train", batch_size=300, **arguments):
    return _rows(source.batches(split, batch_size, **arguments))


def _rows(dataset):
    columns = {name: [] for name in (*_NAMES, "label")}
    for features, label in dataset:
        for name, column in {**features, "label": label}.items():
            rows = column.to_list() if hasattr(column, "to_list") else column.numpy().tolist()
            columns[name] += rows
    return columns


def _text(columns):
    return [str(row) for row in zip(*(columns[name] for name in sorted(columns)), strict=True)]


def test_the_twin_is_like_the_original(original, twin_dir):
    source = SyntheticSource(twin_dir)
    assert source.schema == RecordSource(original[0]).schema
    assert source.rows("train") == 4000 and source.rows("evaluation") == 500
    got, features = _blocks(source), original[1]
    for name in ("local", "pair"):
        wanted = stack_distances(np.array(features[name]).reshape(-1))
        close = compare(wanted, stack_distances(np.array(got[name]).reshape(-1)))
        assert close.max_difference < 0.05, name
        # Locality is what is compared: the same ids in another order have none.
        mixed = np.random.default_rng(0).permutation(np.array(got[name]).reshape(-1))
        assert compare(wanted, stack_distances(mixed)).max_difference > 0.4
    lengths = np.bincount([len(ids) for ids in got["bag/of"]], minlength=6) / 4000
    np.testing.assert_allclose(lengths, [0.2, 0.5, 0, 0, 0, 0.3], atol=0.03)
    assert set(map(len, got["nothing"])) == {0}
    assert abs(np.mean(got["label"]) - 0.2) < 0.03
    assert abs(np.mean(_blocks(source, "evaluation")["label"]) - 0.6) < 0.07
    dense = np.array(got["dense"])
    assert abs(dense[:, 0].mean() - 3) < 0.3 and abs((dense[:, 0] < 1).mean() - 0.283) < 0.03
    assert abs(dense[:, 1].mean() - 0.7) < 0.03
    # Values lie between two quantiles only where these differ: once for a flag.
    assert ((dense[:, 1] > 0) & (dense[:, 1] < 1)).mean() < 0.005


def test_ids_are_numbered_by_first_access_but_for_the_one_outside_the_vocabulary(
    original, twin_dir
):
    twin, ids = Twin.load(twin_dir), original[1]["local"]
    accesses = twin.distributions["local"].accesses
    _, first = np.unique(ids, return_index=True)
    in_order = ids[np.sort(first)]
    zero = np.flatnonzero(in_order == 0)
    assert accesses[zero].tolist() == [0] * len(zero)
    assert np.delete(accesses, zero).tolist() == list(range(1, len(in_order) + 1 - len(zero)))


def _blocks(source, split="train", **arguments):
    """The rows as they are made, before TensorFlow has them: for a hundredth of the time."""
    parts = list(source.blocks(split, **arguments))
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    for name in ("bag/of", "nothing"):
        ends = np.cumsum(columns.pop(f"{name}/lengths"))
        columns[name] = [ids.tolist() for ids in np.split(columns[name], ends)[:-1]]
    columns = {name: c if isinstance(c, list) else c.tolist() for name, c in columns.items()}
    return columns


def test_tensorflow_has_the_rows_that_are_made(twin_dir):
    source = SyntheticSource(twin_dir, {"train": 9000}, 3)
    for arguments in ({}, {"shuffle_seed": 5, "epoch": 1, "first_row": 8300}):
        assert _text(_read(source, batch_size=700, **arguments)) == _text(
            _blocks(source, **arguments)
        )


def test_rows_are_a_function_of_the_arguments(twin_dir):
    first = _text(_blocks(SyntheticSource(twin_dir, {"train": 20_000}, 3)))
    assert len(first) == 20_000
    longer = SyntheticSource(twin_dir, {"train": 21_000}, 3)
    assert _text(_blocks(longer, block_rows=9000))[:20_000] == first
    other = _text(_blocks(SyntheticSource(twin_dir, {"train": 20_000}, 4)))
    assert np.mean([a != b for a, b in zip(first, other, strict=True)]) > 0.99
    source = SyntheticSource(twin_dir, {"train": 3000, "evaluation": 3000})
    assert not set(_text(_blocks(source))) & set(_text(_blocks(source, "evaluation")))


@pytest.mark.parametrize("shuffle_seed", [None, 5])
def test_reading_goes_on_anywhere(twin_dir, shuffle_seed):
    source = SyntheticSource(twin_dir, {"train": 20_000})
    arguments = {"shuffle_seed": shuffle_seed, "epoch": 1}
    rows = _text(_blocks(source, **arguments))
    for first_row in (1, 8191, 12_345):
        assert _text(_blocks(source, first_row=first_row, **arguments)) == rows[first_row:]
    assert len(list(source.blocks("train", first_row=20_000, **arguments))) == 0


@pytest.mark.parametrize(
    ("rows", "first_row", "count", "indices"), [(1805, 901, 3, (0, 2)), (7, 2, 4, (1, 3))]
)
def test_shards_by_row_are_together_what_one_reader_sees(twin_dir, rows, first_row, count, indices):
    source = SyntheticSource(twin_dir, {"train": rows})
    arguments = {"shuffle_seed": 2, "epoch": 1}
    whole = _text(_blocks(source, **arguments))
    for index in indices:
        shard = {"shard_index": index, "shard_count": count, "first_row": first_row}
        dataset = source.batches("train", 100, **arguments, **shard)
        assert len(dataset) == -(-(rows - first_row) // (100 * count))
        mine = _text(_rows(dataset))
        assert mine == [whole[p] for p in range(first_row, rows) if p % count == index]


def test_shards_by_block_draw_streams_of_their_own_with_the_same_locality(twin_dir):
    source = SyntheticSource(twin_dir, {"train": 9001})
    plain = _blocks(source)
    assert _blocks(source, shard=Shard(0, 1, "block")) == plain
    shards = [_blocks(source, shard=Shard(i, 2, "block")) for i in range(2)]
    assert [len(shard["label"]) for shard in shards] == [4501, 4500]
    assert not set(_text(shards[0])) & (set(_text(shards[1])) | set(_text(plain)))
    for shard in shards:
        distances = [stack_distances(np.array(rows["local"])) for rows in (plain, shard)]
        assert compare(*distances).max_difference < 0.05


@pytest.mark.slow
def test_shards_by_block_have_equally_many_batches(twin_dir):
    source = SyntheticSource(twin_dir, {"train": 9001})
    mine = _text(_blocks(source, shard=Shard(1, 2, "block")))
    # Rows 4001 onwards of both: 2,500 of each shard.
    second = {"shard_index": 1, "shard_count": 2, "shard_by": "block"}
    assert _text(_read(source, **second, first_row=4001)) == mine[2000:]
    # Equal numbers of batches: the second shard's last one has no row.
    assert len(source.batches("train", 4500, **{**second, "shard_index": 0})) == 2
    batches = list(source.batches("train", 4500, **second))
    assert [len(label) for _, label in batches] == [4500, 0]
    assert len(source.batches("train", 4500, drop_remainder=True, **second)) == 1


def test_shards_that_are_not_allowed(twin_dir):
    source = SyntheticSource(twin_dir)
    with pytest.raises(DataError, match="shard_by='file' needs a data set of files"):
        source.batches("train", 10, shard_by="file")
    with pytest.raises(DataError, match="shard_index must lie between 0"):
        source.batches("train", 10, shard_index=2, shard_count=2)


def test_a_shuffle_seed_makes_another_stream_of_each_epoch_with_the_same_locality(twin_dir):
    source = SyntheticSource(twin_dir)
    plain = [_blocks(source, epoch=epoch) for epoch in (0, 1)]
    assert plain[0] == plain[1]
    epochs = [_blocks(source, shuffle_seed=1, epoch=epoch) for epoch in (0, 1)]
    streams = [plain[0], *epochs, _blocks(source, shuffle_seed=2, epoch=0)]
    assert len({str(stream) for stream in streams}) == 4
    distances = [stack_distances(np.array(stream["local"])) for stream in streams]
    for other in distances[1:]:
        assert compare(distances[0], other).max_difference < 0.05


def test_shapes_types_and_batches(twin_dir):
    source = SyntheticSource(twin_dir, {"train": 1000})
    dataset = source.batches("train", 300)
    features, label = dataset.element_spec
    assert label == tf.TensorSpec([None], tf.float32)
    assert features["dense"] == tf.TensorSpec([None, 2], tf.float32)
    assert features["local"] == tf.TensorSpec([None], tf.int32)
    assert features["pair"] == tf.TensorSpec([None, 2], tf.int32)
    assert isinstance(features["bag/of"], tf.RaggedTensorSpec)
    assert features["bag/of"].dtype == tf.int32
    assert [len(label) for _, label in dataset] == [300, 300, 300, 100]
    assert dataset.cardinality().numpy() == 4
    whole = source.batches("train", 300, drop_remainder=True)
    assert whole.element_spec[0]["pair"].shape == [300, 2]
    assert [len(label) for _, label in whole] == [300] * 3


def test_the_fingerprint_follows_the_arguments_and_the_files(twin_dir, tmp_path):
    first = SyntheticSource(twin_dir).fingerprint
    assert SyntheticSource(twin_dir).fingerprint == first
    assert SyntheticSource(twin_dir, seed=1).fingerprint != first
    assert SyntheticSource(twin_dir, {"train": 5}).fingerprint != first
    copy = str(tmp_path / "copy")
    shutil.copytree(twin_dir, copy)
    assert SyntheticSource(copy).fingerprint == first
    path = os.path.join(copy, "pair.distribution")
    lines = open(path).read().splitlines()
    numbers = lines[0].split(", ")
    open(path, "w").write("\n".join([", ".join([*numbers[1:], numbers[0]]), *lines[1:]]))
    assert SyntheticSource(copy).fingerprint != first


def test_arguments_that_are_not_allowed(twin_dir):
    source = SyntheticSource(twin_dir)
    for arguments, message in [
        ({"split": "test"}, "has no split 'test'; it has train, evaluation"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"first_row": 4001}, "first_row must lie between 0 and the number of rows, 4000"),
        ({"first_row": -1}, "first_row must lie between 0"),
        ({"epoch": -1}, "epoch must be at least 0, not -1"),
    ]:
        with pytest.raises(DataError, match=message):
            source.batches(**{"split": "train", "batch_size": 5, **arguments})
    with pytest.raises(DataError, match="'train' cannot have -1 rows"):
        SyntheticSource(twin_dir, {"train": -1})
    assert "synthetic rows failed: what" in source.explain(ValueError("what\nmore"))


def _change(path, **changes):
    value = json.loads(open(path).read())
    value.update(changes)
    open(path, "w").write(json.dumps(value))


def test_folders_that_are_no_twin(twin_dir, tmp_path):
    with pytest.raises(DataError, match="is no folder of distributions: it has no twin.json"):
        SyntheticSource(str(tmp_path))
    for number, (change, message) in enumerate(
        [
            ({"version": 9}, "does not describe a folder of distributions of version 1"),
            ({"schema": 3}, "twin.json cannot be used: The schema cannot be read"),
            ({"rows": {"train": -1}}, "'train' cannot have -1 rows"),
            ({"label_rates": {"train": 2}}, r"'train' must lie in \[0, 1\], not 2"),
            ({"label_rates": {}}, "no split with a label rate"),
            ({"dense_quantiles": {}}, "dense column 'count' has no quantiles"),
            (
                {"dense_quantiles": {"count": [0, 1], "flag": [1, 0]}},
                "dense column 'flag' must be finite and ascend",
            ),
            ({"distributions": {}}, "column 'local' has no distribution"),
            ({"row_lengths": {}}, "'bag/of' needs the numbers of ids of its rows"),
        ]
    ):
        copy = str(tmp_path / str(number))
        shutil.copytree(twin_dir, copy)
        _change(os.path.join(copy, "twin.json"), **change)
        with pytest.raises(DataError, match=message):
            SyntheticSource(copy)
    copy = str(tmp_path / "file")
    shutil.copytree(twin_dir, copy)
    with open(os.path.join(copy, "pair.distribution"), "w") as file:
        file.write("60\n0\n1\n")
    with pytest.raises(DataError, match="'pair' has the id 60, which lies outside .* of 60 ids"):
        SyntheticSource(copy)
    os.unlink(os.path.join(copy, "pair.distribution"))
    with pytest.raises(DataError, match="pair.distribution cannot be read: No such file"):
        SyntheticSource(copy)
