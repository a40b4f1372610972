import dataclasses

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tfrecords.criteo_schema import KAGGLE_VOCABULARY_SIZES, criteo_shaped
from tfrecords.errors import DataError
from tfrecords.random import RandomSource
from tfrecords.schema import CategoricalColumn, Schema

_SCHEMA = Schema(("a", "b"), (CategoricalColumn("c", 1000), CategoricalColumn("d", 50, 3)))


def _source(seed=1, train=20_000, **changes):
    arguments = {"schema": _SCHEMA, "rows": {"train": train, "evaluation": 9_000}, "seed": seed}
    return RandomSource(**{**arguments, **changes})


def _text(features, label):
    return [
        str((*(features[name][row].tolist() for name in features), label[row]))
        for row in range(len(label))
    ]


def test_the_rows_are_a_function_of_the_arguments(read_all):
    first = read_all(_source(), "train", 512)
    for batch_size in (512, 1000):
        again = read_all(_source(), "train", batch_size)
        for name in first[0]:
            np.testing.assert_array_equal(again[0][name], first[0][name])
        np.testing.assert_array_equal(again[1], first[1])
    longer = read_all(_source(train=30_000), "train", 512)
    np.testing.assert_array_equal(longer[0]["d"][:20_000], first[0]["d"])
    assert (read_all(_source(seed=2), "train", 512)[0]["dense"] != first[0]["dense"]).mean() > 0.9


def test_splits_share_no_rows(read_all):
    train = set(_text(*read_all(_source(), "train", 1024)))
    evaluation = set(_text(*read_all(_source(), "evaluation", 1024)))
    assert len(train) > 19_990 and not train & evaluation


def test_a_shuffled_epoch_holds_each_row_once_and_goes_on_anywhere(read_all):
    source = _source(shuffle_window_rows=8192)
    plain = _text(*read_all(source, "train", 512))
    shuffled = _text(*read_all(source, "train", 512, shuffle_seed=5, epoch=1))
    assert shuffled != plain and sorted(shuffled) == sorted(plain)
    for first_row in (1, 8191, 8192, 12_345, 19_999):
        rest = read_all(source, "train", 700, shuffle_seed=5, epoch=1, first_row=first_row)
        assert _text(*rest) == shuffled[first_row:]


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
    [_SCHEMA, criteo_shaped(10_000), Schema((), (CategoricalColumn("c", 100),) * 1)],
)
def test_the_teacher_can_be_learnt_from(read_all, schema):
    source = _source(schema=schema, train=60_000)
    features, label = read_all(source, "train", 4096)
    probability = source.teacher_probability(features).numpy()
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
    for changes in ({"seed": 2}, {"alpha": 1.0}, {"label": "random"}, {"train": 5}):
        assert _source(**changes).fingerprint != first


def test_criteo_shape():
    schema = criteo_shaped(10_000, ids_per_lookup=2)
    assert len(schema.dense) == 13
    sizes = [column.vocabulary_size for column in schema.categorical]
    assert sizes == [min(size, 10_000) for size in KAGGLE_VOCABULARY_SIZES]
    assert {column.hotness for column in schema.categorical} == {2}
    assert sum(column.vocabulary_size for column in criteo_shaped().categorical) == 33_762_577


def test_arguments_that_are_not_allowed():
    ragged = dataclasses.replace(_SCHEMA, categorical=(CategoricalColumn("bag", 5, hotness=None),))
    for changes, message in [
        ({"schema": ragged}, "'bag' is ragged"),
        ({"train": -1}, "'train' cannot have -1 rows"),
        ({"alpha": -0.5}, "alpha must lie between 0"),
        ({"label": "best"}, "label must be one of teacher, random, not 'best'"),
    ]:
        with pytest.raises(DataError, match=message):
            _source(**changes)
    with pytest.raises(DataError, match="has no split 'test'"):
        _source().rows("test")
