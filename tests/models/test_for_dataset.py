"""From a table in memory to a trained Keras model, in a few lines."""

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf

import tfrecords
from tf_dlrm.embeddings import Adagrad
from tf_dlrm.keras_api import keras
from tf_dlrm.models import DLRM, DLRMConfig
from tfrecords.errors import DataError

_TOML = """
format = "csv"
label = "click"
[dense]
price = "log1p"
[categorical]
city = "text"
item = "integer"
tags = {hotness = "any", separator = ";"}
"""


def _table(rows, seed):
    """Rows whose label is 1 where item and city are of one kind."""
    rng = np.random.default_rng(seed)
    item, city = rng.integers(0, 8, rows), rng.integers(0, 4, rows)
    return pa.table(
        {
            "click": (item % 2 == city % 2).astype(np.int8),
            "price": rng.random(rows),
            "city": [f"city {k}" for k in city],
            "item": item,
            "tags": [["a"] * (k % 3) for k in range(rows)],
        }
    )


@pytest.fixture
def description(tmp_path):
    (tmp_path / "clicks.toml").write_text(_TOML)
    return str(tmp_path / "clicks.toml")


@pytest.mark.slow
def test_three_lines_from_a_data_set_to_a_model_that_learns(tmp_path, description):
    folder = str(tmp_path / "data")
    info = tfrecords.write(_table(3000, 0), description, folder, evaluation=_table(500, 1))
    assert {name: split.rows for name, split in info.splits.items()} == {
        "train": 3000,
        "evaluation": 500,
    }

    data = tfrecords.open(folder)
    model = DLRM(DLRMConfig.for_dataset(data, 4, Adagrad(0.2), (8,), (16,), seed=1))
    model.compile(keras.optimizers.Adam(0.02), keras.losses.BinaryCrossentropy(from_logits=True))
    model.fit(data.dataset("train", 100, shuffle_seed=1, epochs=2), verbose=0)

    # Half of the labels are 1: a model that knows nothing has the loss ln(2).
    ((features, label),) = data.dataset("evaluation", 500)
    losses = tf.nn.sigmoid_cross_entropy_with_logits(label, model(features)[:, 0])
    assert float(tf.reduce_mean(losses)) < 0.2
    assert model.config.bottom_mlp == (8, 4) and model.config.top_mlp == (16, 1)
    sizes = {f.name: f.table.vocabulary_size for f in model.config.features}
    assert sizes == {"city": 5, "item": 9, "tags": 2}


def test_epochs_have_orders_of_their_own(tmp_path, description):
    folder = str(tmp_path / "data")
    tfrecords.write(_table(500, 0), description, folder, split="none")
    prices = [
        features["dense"].numpy()[:, 0]
        for features, _ in tfrecords.open(folder).dataset("train", 500, shuffle_seed=3, epochs=2)
    ]
    assert len(prices) == 2 and not np.array_equal(*prices)
    np.testing.assert_array_equal(*map(np.sort, prices))
    with pytest.raises(DataError, match="epochs must be at least 1, not 0"):
        tfrecords.open(folder).dataset("train", 1, epochs=0)


def test_without_dense_columns_there_is_no_bottom_mlp(tmp_path, description):
    folder = str(tmp_path / "data")
    (tmp_path / "clicks.toml").write_text(
        _TOML.replace('[dense]\nprice = "log1p"\n', 'ignore = ["price"]\n').replace(
            'ignore = ["price"]\n[categorical]', "[categorical]"
        )
    )
    table = _table(50, 0).drop_columns(["price"])
    tfrecords.write(table, description, folder, split="none")
    data = tfrecords.open(folder)
    config = DLRMConfig.for_dataset(data, 4, Adagrad(0.2))
    assert config.dense_features == 0 and config.bottom_mlp == ()
    (features, _), *_ = data.dataset("train", 10)
    assert DLRM(config)(features).shape == tf.TensorShape([10, 1])


def test_rows_of_a_stream_and_what_is_no_table(tmp_path, description):
    table = _table(300, 0)
    stream = pa.RecordBatchReader.from_batches(table.schema, table.to_batches(max_chunksize=70))
    info = tfrecords.write(stream, description, str(tmp_path / "a"), split="none")
    assert info.splits["train"].rows == 300
    whole = tfrecords.write(table, description, str(tmp_path / "b"), split="none")
    assert [f.crc32c for f in info.splits["train"].files] == [
        f.crc32c for f in whole.splits["train"].files
    ]
    with pytest.raises(TypeError, match="table must speak Arrow's C stream .* but is a dict"):
        tfrecords.write({"click": [1]}, description, str(tmp_path / "c"))
    wrong = table.set_column(1, "price", pa.array([None] * 300, pa.float64()))
    with pytest.raises(DataError, match="column 'price' is missing, where a number is needed"):
        tfrecords.write(wrong, description, str(tmp_path / "d"), split="none")
