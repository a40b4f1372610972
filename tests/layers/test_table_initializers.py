"""Tables start with values of the distributions of Keras's initializers."""

import numpy as np
import pytest

from tf_dlrm.embeddings import SGD, FeatureConfig, TableConfig
from tf_dlrm.keras_api import keras
from tf_dlrm.layers import EmbeddingCollection

ROWS, DIM = 3000, 40
GIVEN = [
    "uniform",
    "normal",
    "zeros",
    "ones",
    "glorot_uniform",
    "he_normal",
    "lecun_uniform",
    keras.initializers.RandomUniform(0.5, 2.0),
    keras.initializers.RandomNormal(1.0, 0.3),
    keras.initializers.TruncatedNormal(2.0, 0.2),
    keras.initializers.Constant(0.7),
    keras.initializers.GlorotNormal(),
    keras.initializers.VarianceScaling(3.0, "fan_out", "untruncated_normal"),
    keras.initializers.Ones,
]


def table(initializer):
    return TableConfig("t", ROWS, DIM, initializer, SGD(0.1))


@pytest.mark.parametrize("given", GIVEN, ids=lambda g: g if isinstance(g, str) else repr(g)[:40])
def test_values_have_the_distribution_of_keras(given):
    config = table(given)
    ours = config.initial_rows(0, 0, ROWS).numpy()
    keras.utils.set_random_seed(5)
    theirs = np.asarray(keras.initializers.get(given)((ROWS, DIM)))
    spread = max(theirs.std(), 1e-6)
    assert abs(ours.mean() - theirs.mean()) < 0.02 * spread
    np.testing.assert_allclose(ours.std(), theirs.std(), rtol=0.02)
    # Not the ends, which of a normal distribution differ from draw to draw.
    parts = (0.001, 0.05, 0.3, 0.5, 0.7, 0.95, 0.999)
    quantiles = [np.quantile(values, parts) for values in (ours, theirs)]
    np.testing.assert_allclose(*quantiles, rtol=1e-6, atol=0.2 * spread)
    # A part of the table is the same part, and a copy of the config is equal.
    np.testing.assert_array_equal(config.initial_rows(0, 1000, 7), ours[1000:1007])
    assert TableConfig.from_dict(config.to_dict()) == config


def test_ends_of_truncated_values():
    rows = table(keras.initializers.TruncatedNormal(2.0, 0.2)).initial_rows(0, 0, ROWS).numpy()
    assert 1.6 < rows.min() < 1.601 and 2.399 < rows.max() < 2.4


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("orthogonal", "draw each number alone.*but is 'orthogonal'"),
        (keras.initializers.Identity(), "draw each number alone"),
        (keras.initializers.RandomNormal(seed=3), "has seed=3.*leave the seed out"),
        (lambda shape: np.ones(shape), "draw each number alone"),
        (np.ones((ROWS, DIM)), "but is a ndarray; .*assign_rows"),
        (None, "draw each number alone"),
    ],
)
def test_what_is_no_initializer_of_tables(given, words):
    with pytest.raises(ValueError, match=f"initializer of table 't'.*{words}"):
        table(given)


def test_a_layer_from_its_config_has_the_same_values():
    layer = EmbeddingCollection([FeatureConfig("f", table("he_normal"))], seed=3)
    copy = EmbeddingCollection.from_config(layer.get_config())
    for one in (layer, copy):
        one.build()
    np.testing.assert_array_equal(
        layer.tables["t"].read_rows(), table("he_normal").initial_rows(3, 0, ROWS)
    )
    np.testing.assert_array_equal(copy.tables["t"].read_rows(), layer.tables["t"].read_rows())
