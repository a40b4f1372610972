import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import roc_auc_score

from tfrecords.epoch import Shard, epoch_order
from tfrecords.errors import DataError
from tfrecords.random import RandomSource
from tfrecords.random_schema import KAGGLE_VOCABULARY_SIZES, random_schema, table_sizes
from tfrecords.reader import RecordSource
from tfrecords.schema import CategoricalColumn, Schema


def _criteo(most=0, hotness=1):
    return random_schema(table_sizes(("criteo_kaggle",), most), 13, hotness)


_SCHEMA = Schema(("a", "b"), (CategoricalColumn("c", 1000), CategoricalColumn("d", 50, 3)))
_RAGGED = Schema(
    ("a",),
    (CategoricalColumn("bag", 500, None), CategoricalColumn("few", 3, None), *_SCHEMA.categorical),
)


_BAGS = Schema(("a",), (CategoricalColumn("bag", 500, None), CategoricalColumn("d", 50, 3)))


def _source(seed=1, train=20_000, **changes):
    arguments = {"schema": _SCHEMA, "rows": {"train": train, "evaluation": 9_000}, "seed": seed}
    return RandomSource(**{**arguments, **changes})


def _text(features, label):
    columns = [c if isinstance(c, list) else c.tolist() for c in (*features.values(), label)]
    return list(map(str, zip(*columns, strict=True)))


def test_the_rows_are_a_function_of_the_arguments(read_all):
    first = read_all(_source(train=9_000), "train", 512)
    again = read_all(_source(train=17_000), "train", 1000)
    for name in first[0]:
        np.testing.assert_array_equal(again[0][name][:9_000], first[0][name])
    np.testing.assert_array_equal(again[1][:9_000], first[1])
    other = read_all(_source(train=9_000, seed=2), "train", 512)
    assert (other[0]["dense"] != first[0]["dense"]).mean() > 0.9


def test_splits_share_no_draws(read_all):
    rows = {"train": 9_000, "evaluation": 9_000, "test": 9_000}
    source = _source(schema=_BAGS, rows=rows, indices_per_lookup=5, label="continuous")
    draws = {}
    for split in rows:
        features, label = read_all(source, split, 4096)
        ids = np.concatenate(features["bag"]), features["d"].ravel()
        # 64 ids in a row meet again only where the draws are the same.
        runs = [{column[i : i + 64].tobytes() for i in range(0, 9_000, 64)} for column in ids]
        draws[split] = [features["dense"].ravel(), label], runs
    for one, other in [("train", "evaluation"), ("train", "test"), ("evaluation", "test")]:
        for left, right in zip(draws[one][0], draws[other][0], strict=True):
            assert np.isin(right, left).mean() < 0.01  # by chance: float32 has few values
        for left, right in zip(draws[one][1], draws[other][1], strict=True):
            assert not (left & right) - {b""}


def test_a_shuffled_epoch_holds_each_row_once_and_goes_on_anywhere(read_all):
    schema = Schema(("a",), (CategoricalColumn("bag", 500, None),))
    common = {"schema": schema, "indices_per_lookup": 5, "label": "continuous"}
    source = _source(**common, train=9000, shuffle_window_rows=8192)
    plain = _text(*read_all(source, "train", 4096))
    order = {"shuffle_seed": 5, "epoch": 1}
    shuffled = _text(*read_all(source, "train", 4096, **order))
    assert shuffled != plain and sorted(shuffled) == sorted(plain)
    rest = read_all(source, "train", 700, first_row=8345, shard_index=1, shard_count=2, **order)
    assert _text(*rest) == shuffled[8345::2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"schema": _RAGGED, "indices_per_lookup": 5},
        {"schema": _RAGGED, "indices_per_lookup": 5, "repeats": False, "ids": "normal"},
        {"ids": "uniform", "repeats": False, "dense": "normal", "label": "continuous"},
    ],
    ids=["default", "ragged", "distinct", "fixed"],
)
def test_rows_of_all_options_can_be_shuffled(read_all, options):
    source = _source(train=17_000, shuffle_window_rows=8192, **options)
    plain = _text(*read_all(source, "train", 4096))
    shuffled = _text(*read_all(source, "train", 4096, shuffle_seed=5, epoch=1))
    assert shuffled != plain and sorted(shuffled) == sorted(plain)
    rest = read_all(source, "train", 700, shuffle_seed=5, epoch=1, first_row=12_345)
    assert _text(*rest) == shuffled[12_345:]


def test_each_epoch_has_an_order_of_its_own(order_of):
    source = _source(train=7 * 8192 - 1, label="random", shuffle_window_rows=8192)

    def blocks(**arguments):
        return order_of(source, "train", **arguments).parts[0].blocks.tolist()

    assert blocks(shuffle_seed=5, epoch=0) == [3, 5, 2, 4, 6, 0, 1]
    assert blocks(shuffle_seed=5, epoch=1) == [4, 2, 0, 5, 1, 3, 6]


@pytest.mark.parametrize("shard", [(0, 1, "row"), (2, 3, "row"), (1, 2, "block")])
def test_the_arguments_reach_the_order(order_of, shard):
    source = _source(train=20_000, label="random", shuffle_window_rows=16_384)
    index, count, by = shard
    common = {"shuffle_seed": 5, "epoch": 2, "first_row": 700}
    got = order_of(source, "train", shard_index=index, shard_count=count, shard_by=by, **common)
    wanted = epoch_order(
        np.array([8192, 8192, 3616]), shuffle_window_rows=16_384, shard=Shard(*shard), **common
    )
    assert str(got) == str(wanted)


def test_there_are_no_files_to_shard_by():
    with pytest.raises(DataError, match="shard_by='file' needs a data set of files"):
        _source(label="random").batches("train", 100, shard_count=2, shard_by="file")


# `test_random_ids` has the distributions of all kinds of bags.
@pytest.mark.parametrize(
    ("ids", "repeats"),
    [
        ("power_law", True),
        pytest.param("normal", False, marks=pytest.mark.slow),
        pytest.param("uniform", False, marks=pytest.mark.slow),
        *(
            pytest.param(*pair, marks=pytest.mark.exhaustive)
            for pair in (("power_law", False), ("uniform", True), ("normal", True))
        ),
    ],
)
def test_ragged_lookups_have_one_to_k_ids(read_all, ids, repeats):
    source = _source(schema=_RAGGED, indices_per_lookup=5, repeats=repeats, ids=ids)
    features, _ = read_all(source, "train", 4096)
    for name, size in (("bag", 500), ("few", 3)):
        longest = 5 if repeats else min(5, size)
        lengths = np.array([len(bag) for bag in features[name]])
        shares = np.bincount(lengths, minlength=longest + 1) / len(lengths)
        np.testing.assert_allclose(shares, [0] + [1 / longest] * longest, atol=0.015)
        assert {i for bag in features[name] for i in bag} <= set(range(size))
        twice = any(len(set(bag)) < len(bag) for bag in features[name])
        assert twice == repeats
    fixed = features["d"]
    assert fixed.shape == (20_000, 3)
    assert (np.diff(np.sort(fixed, axis=1)) == 0).any() == repeats


def test_ids_are_spread_over_their_tables(read_all):
    for ids, deviation in (("uniform", 1000 / 12**0.5), ("normal", 1000 / 6 * 0.9866)):
        column = read_all(_source(ids=ids), "train", 8192)[0]["c"]
        assert abs(column.mean() - 499.5) < 5
        assert abs(column.std() - deviation) < 0.02 * deviation


def test_dense_values_are_uniform_or_normal(read_all):
    uniform = read_all(_source(), "train", 8192)[0]["dense"]
    assert 0 <= uniform.min() < 0.01 and 0.99 < uniform.max() < 1
    assert abs(uniform.std() - 12**-0.5) < 0.005
    normal = read_all(_source(dense="normal"), "train", 8192)[0]["dense"]
    assert abs(normal.mean()) < 0.02 and abs(normal.std() - 1) < 0.02
    assert abs((np.abs(normal) > 2).mean() - 0.0455) < 0.005


def test_labels_as_in_the_papers_code(read_all):
    continuous = read_all(_source(label="continuous"), "train", 8192)[1]
    assert 0 <= continuous.min() < 0.001 and 0.999 < continuous.max() < 1
    assert abs(continuous.mean() - 0.5) < 0.01
    rounded = read_all(_source(label="rounded"), "train", 8192)[1]
    np.testing.assert_array_equal(rounded, np.round(continuous))


@pytest.mark.parametrize("alpha", [0.0, 1.0, 1.05, 2.0])
def test_ids_follow_the_power_law(read_all, alpha):
    ids = read_all(_source(alpha=alpha, train=200_000), "train", 8192)[0]["c"]
    assert ids.min() >= 0 and ids.max() < 1000
    edges = np.arange(1, 1002, dtype=np.float64)
    integral = np.log(edges) if alpha == 1 else edges ** (1 - alpha) / (1 - alpha)
    expected = np.diff(integral) / (integral[-1] - integral[0])
    got = np.bincount(ids, minlength=1000) / len(ids)
    np.testing.assert_allclose(got[:20], expected[:20], atol=5 * (0.25 / 200_000) ** 0.5)
    if alpha == 0:
        assert (got > 0).all()


@pytest.mark.parametrize(
    "schema",
    [
        _SCHEMA,
        pytest.param(_criteo(10_000), marks=pytest.mark.slow),
        Schema((), (CategoricalColumn("c", 100),) * 1),
        Schema(("a",), tuple(CategoricalColumn(f"c{i}", 400, None) for i in range(3))),
    ],
    ids=["mixed", "criteo", "one", "ragged"],
)
def test_the_teacher_can_be_learnt_from(schema):
    source = _source(schema=schema, train=16_384, indices_per_lookup=4)
    features, label = next(iter(source.batches("train", 16_384)))
    label, probability = label.numpy(), source.teacher_probability(features).numpy()
    assert abs(label.mean() - 0.25) < 0.02
    assert abs(probability.mean() - label.mean()) < 0.01
    # Calibrated: the labels are drawn with these probabilities.
    for low, high in [(0.0, 0.1), (0.2, 0.4), (0.5, 0.9)]:
        chosen = (probability >= low) & (probability < high)
        if chosen.sum() > 1000:
            assert abs(label[chosen].mean() - probability[chosen].mean()) < 0.03
    if len(schema.categorical) > 1:
        assert 0.82 < roc_auc_score(label, probability) < 0.88


def test_random_labels_cannot_be_learnt(read_all):
    source = _source(label="random", train=60_000)
    features, label = read_all(source, "train", 4096)
    assert abs(label.mean() - 0.5) < 0.01
    assert (source.teacher_probability(features).numpy() == 0.5).all()
    assert abs(roc_auc_score(label, features["dense"][:, 0]) - 0.5) < 0.02


def test_the_fingerprint_follows_the_arguments():
    first = _source().fingerprint
    assert _source().fingerprint == first
    for changes in (
        {"seed": 2},
        {"alpha": 1.0},
        {"label": "random"},
        {"train": 5},
        {"ids": "normal"},
        {"repeats": False},
        {"dense": "normal"},
        {"indices_per_lookup": 2},
    ):
        assert _source(**changes).fingerprint != first


def test_criteo_shape():
    schema = _criteo(10_000, 2)
    assert len(schema.dense) == 13
    sizes = [column.vocabulary_size for column in schema.categorical]
    assert sizes == [min(size, 10_000) for size in KAGGLE_VOCABULARY_SIZES]
    assert {column.hotness for column in schema.categorical} == {2}
    assert sum(column.vocabulary_size for column in _criteo().categorical) == 33_762_577


def test_an_empty_bag_has_the_mean_effect():
    source = _source(schema=Schema((), (CategoricalColumn("bag", 50, None),)), indices_per_lookup=3)
    bags = tf.ragged.constant([[], [7], [7, 7], [7, 8], [8], []], dtype=tf.int32)
    probability = source.teacher_probability({"bag": bags}).numpy()
    logit = np.log(probability / (1 - probability))
    assert logit[0] == logit[5] and abs(logit[1] - logit[2]) < 1e-5
    assert abs(logit[3] - (logit[1] + logit[4]) / 2) < 1e-5 and abs(logit[1] - logit[4]) > 1e-3


def test_arguments_that_are_not_allowed():
    for changes, message in [
        ({"schema": _RAGGED, "indices_per_lookup": 0}, "indices_per_lookup must be at least 1"),
        (
            {"schema": Schema((), (CategoricalColumn("c", 2, 3),)), "repeats": False},
            "Column 'c' takes 3 ids per lookup without repeats, but its table has only 2",
        ),
        ({"train": -1}, "'train' cannot have -1 rows"),
        ({"alpha": -0.5}, "alpha must lie between 0"),
        (
            {"label": "best"},
            "label must be one of teacher, random, rounded, continuous, not 'best'",
        ),
        ({"dense": "cauchy"}, "dense must be one of uniform, normal, not 'cauchy'"),
        ({"ids": "zipf"}, "ids must be one of power_law, uniform, normal, not 'zipf'"),
    ]:
        with pytest.raises(DataError, match=message):
            _source(**changes)
    with pytest.raises(DataError, match="has no split 'test'"):
        _source().rows("test")


def test_the_program_writes_what_the_source_makes(tmp_path, run_command, read_blocks):
    output_dir = str(tmp_path / "out")
    arguments = (
        "--rows=500 --evaluation_rows=100 --tables=40 --dense_features=2 --dense=normal "
        "--indices_per_lookup=3 --noindices_per_lookup_fixed --ids=uniform "
        "--alpha=1.5 --label=rounded --seed=4"
    )
    program = ("tfrecords.random", f"--output_dir={output_dir}")
    done = run_command(*program, *arguments.split())
    assert done.code == 0, done.err
    schema = Schema(("I1", "I2"), (CategoricalColumn("C1", 40, None),))
    source = RandomSource(
        schema,
        {"train": 500, "evaluation": 100},
        seed=4,
        alpha=1.5,
        ids="uniform",
        dense="normal",
        label="rounded",
        indices_per_lookup=3,
    )
    folder = RecordSource(output_dir)
    assert folder.schema == schema
    assert folder.info.how_it_was_made == source.description()
    assert folder.rows("train") == 500 and folder.rows("evaluation") == 100
    ((features, label),) = source.batches("train", 500)
    written, labels = read_blocks(output_dir, "train")
    np.testing.assert_array_equal(labels, label)
    np.testing.assert_array_equal(written["dense"], features["dense"])
    assert written["C1"] == features["C1"].to_list()
    assert re.search(r"^Writing train: 500 rows, [\d,]+ rows/s", done.err, re.MULTILINE), done.err
    failed = run_command(*program, "--tables=40,2", "--indices_per_lookup=3", "--norepeats")
    assert failed.code == 1
    assert failed.err.splitlines()[-1].startswith("error: Column 'C2' takes 3 ids per lookup")


def test_more_than_a_disk_has_is_refused_before_it_is_made(tmp_path, run_command):
    program = ("tfrecords.random", f"--output_dir={tmp_path / 'out'}", "--rows=1000000000000")
    done = run_command(*program, "--tables=9,9", "--dense_features=1", "--evaluation_rows=0")
    assert done.code == 1
    # A label, a number and two ids of four bytes each.
    said = "error: A data set of 1000000000000 rows needs 16.0 TB of disk or more, but that of"
    assert done.err.splitlines()[-1].startswith(said)
    assert not (tmp_path / "out").exists()
    done = run_command(*program[:2], f"--tables={','.join(['9'] * 5001)}")
    assert done.code == 1
    assert "tables has 5001 sizes, but takes at most 5000." in done.err


@pytest.mark.process
def test_the_program_is_a_process_too(tmp_path):
    program = [sys.executable, "-m", "tfrecords.random", f"--output_dir={tmp_path}/out"]
    subprocess.run([*program, "--rows=9", "--tables=40", "--seed=4"], check=True, timeout=120)
    assert RecordSource(f"{tmp_path}/out").rows("train") == 9
