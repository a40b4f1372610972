"""Configs, schedules and initializers: values, JSON, sentences."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.embeddings import (
    FTRL,
    SGD,
    Adagrad,
    Constant,
    FeatureConfig,
    Frozen,
    LazyAdam,
    LearningRateSchedule,
    Normal,
    Range,
    RowWiseAdagrad,
    TableConfig,
    TruncatedNormal,
    Uniform,
    features_from_json,
    features_to_json,
    tables_of,
)
from tf_dlrm.embeddings.initializers import CHUNK_ROWS

SCHEDULE = LearningRateSchedule(2.0, 4, 10, 5, 2.0, 0.5)
OPTIMIZERS = [
    SGD(0.1),
    SGD(SCHEDULE),
    Adagrad(0.1, 0.2, 1e-6),
    RowWiseAdagrad(0.1, 0.3),
    LazyAdam(0.1, 0.8, 0.9, 1e-5),
    FTRL(0.1, -0.4, 0.01, 0.02, 0.3, 0.5),
    Frozen(),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_json_gives_equal_features(optimizer):
    table = TableConfig("t", 10, 4, Normal(0.1, 0.2), optimizer, "mean", 3)
    other = TableConfig("u", 11, 4, Constant(2.0), optimizer=SGD(0.01))
    features = (FeatureConfig("a", table), FeatureConfig("b", table), FeatureConfig("c", other))
    text = features_to_json(features)
    assert features_from_json(text) == features
    assert json.loads(text)[0]["table"]["combiner"] == "mean"
    assert tables_of(features_from_json(text)) == (table, other)


def test_schedule_values():
    # Warm-up 0.5, 1, 1.5, 2; constant until step 10; quadratic to 0.5 at step 15.
    decay = [0.5 + 1.5 * (1 - t / 5) ** 2 for t in range(1, 6)]
    expected = [0.5, 1.0, 1.5, 2.0] + [2.0] * 7 + decay + [0.5, 0.5]
    got = [float(SCHEDULE(step)) for step in range(18)]
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert float(SCHEDULE(2**40)) == 0.5
    assert SCHEDULE(tf.constant(3, tf.int64)).dtype == tf.float32


def test_schedule_counts_beyond_float32():
    start = 2**24
    schedule = LearningRateSchedule(1.0, 0, start, 4, 1.0)
    assert [float(schedule(start + k)) for k in range(6)] == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]


def test_schedule_without_parts_is_constant():
    assert {float(LearningRateSchedule(0.3)(s)) for s in (0, 1, 10**6)} == {np.float32(0.3)}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TableConfig("", 1, 1, optimizer=SGD(0.01)), "name of a table"),
        (lambda: TableConfig("t", 0, 1, optimizer=SGD(0.01)), "vocabulary_size of table 't'"),
        (lambda: TableConfig("t", 1, 2.0, optimizer=SGD(0.01)), "dim of table 't'"),
        (
            lambda: TableConfig("t", 1, 1, combiner="max", optimizer=SGD(0.01)),
            "combiner of table 't'.*'max'",
        ),
        (
            lambda: TableConfig("t", 5, 1, out_of_vocabulary=5, optimizer=SGD(0.01)),
            r"\[0, 5\), but is 5",
        ),
        (lambda: TableConfig("t", 5, 1, optimizer="sgd"), "optimizer of table 't'.*but is 'sgd'"),
        (
            lambda: TableConfig("t", 5, 1),
            "optimizer of table 't'.*SGD, Adagrad, RowWiseAdagrad, .*Frozen.*is missing",
        ),
        (
            lambda: TableConfig("t", 5, 1, initializer="orthogonal", optimizer=SGD(0.01)),
            "initializer of table 't'.*Keras.*but is 'orthogonal'",
        ),
        (lambda: Frozen(0.1), "learning_rate of Frozen must be 0"),
        (lambda: Range(1.0, 1.0), "low below high"),
        (lambda: FeatureConfig("f", "t"), "table of feature 'f'"),
        (lambda: SGD(-0.1), "learning_rate must be"),
        (lambda: SGD(float("nan")), "learning_rate must be"),
        (lambda: SGD("0.1"), "learning_rate must be a float"),
        (lambda: LazyAdam(0.1, beta_1=1.0), "beta_1 must be in"),
        (lambda: FTRL(0.0), "FTRL divides by learning_rate"),
        (lambda: FTRL(1e-50), "above 0, but is 1e-50"),
        (lambda: FTRL(LearningRateSchedule(0.0, 1)), "above 0, but is 0.0"),
        (lambda: FTRL(LearningRateSchedule(0.1, 2)), "FTRL cannot follow a schedule.*Adagrad"),
        (lambda: FTRL(LearningRateSchedule(0.1, 0, 3, 4)), "FTRL cannot follow a schedule"),
        (lambda: FTRL(LearningRateSchedule(0.1, 0, 3, 4, 2.0, 0.2)), "FTRL cannot follow a sch"),
        (lambda: Adagrad(0.1, epsilon=-1.0), "epsilon must be"),
        (lambda: LearningRateSchedule(0.1, 5, 4, 3), "must not start before the warm-up ends"),
        (lambda: LearningRateSchedule(0.1, -1), "warmup_steps must be"),
        (lambda: Uniform(0.0), "bound must be"),
        (lambda: tables_of([]), "at least one feature"),
    ],
)
def test_bad_values_are_sentences(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_two_tables_of_one_name_or_two_features_of_one_name():
    a, b = TableConfig("t", 5, 2, optimizer=SGD(0.01)), TableConfig("t", 6, 2, optimizer=SGD(0.01))
    with pytest.raises(ValueError, match="Two different tables are named 't'"):
        tables_of([FeatureConfig("f", a), FeatureConfig("g", b)])
    with pytest.raises(ValueError, match="Two features are named 'f'"):
        tables_of([FeatureConfig("f", a), FeatureConfig("f", a)])


@pytest.mark.parametrize(
    "initializer",
    [
        Uniform(),
        Uniform(0.3),
        Range(0.5, 2.0),
        Normal(1.0, 0.1),
        TruncatedNormal(1.0, 0.1),
        Constant(3.0),
    ],
)
def test_rows_depend_on_seed_table_and_row_alone(initializer):
    table = TableConfig("t", CHUNK_ROWS * 2 + 100, 3, initializer, optimizer=SGD(0.01))
    whole = table.initial_rows(7, 0, table.vocabulary_size).numpy()
    assert whole.shape == (table.vocabulary_size, 3)
    for start, count in (
        (0, 5),
        (CHUNK_ROWS - 3, 6),
        (CHUNK_ROWS, 1),
        (100, CHUNK_ROWS * 2),
        (9, 0),
    ):
        part = table.initial_rows(7, start, count).numpy()
        np.testing.assert_array_equal(part, whole[start : start + count])
    if not isinstance(initializer, Constant):
        assert not np.array_equal(whole, table.initial_rows(8, 0, table.vocabulary_size))
        other = TableConfig("u", table.vocabulary_size, 3, initializer, optimizer=SGD(0.01))
        assert not np.array_equal(whole, other.initial_rows(7, 0, table.vocabulary_size))
        assert len(np.unique(whole[:, 0])) > 0.99 * len(whole)  # no chunk repeats another


def test_initial_values_have_the_distribution():
    rows = TableConfig("t", 40_000, 4, optimizer=SGD(0.01)).initial_rows(0, 0, 40_000).numpy()
    assert np.abs(rows).max() <= 0.005 and np.abs(rows).max() > 0.00499
    np.testing.assert_allclose(rows.std(), 0.005 / 3**0.5, rtol=0.01)
    normal = (
        TableConfig("t", 40_000, 4, Normal(1.0, 0.1), optimizer=SGD(0.01))
        .initial_rows(0, 0, 40_000)
        .numpy()
    )
    np.testing.assert_allclose([normal.mean(), normal.std()], [1.0, 0.1], rtol=0.01)


def test_first_values_are_the_same_for_ever():
    """A seed names a table: another release must not draw other rows from it."""
    table = TableConfig("items", 20_000, 2, Uniform(1.0), optimizer=SGD(0.01))
    pinned = [[-0.3391755, -0.9492085], [0.4638889, 0.08084631]]
    np.testing.assert_allclose(table.initial_rows(7, CHUNK_ROWS - 1, 2), pinned, rtol=1e-6)
