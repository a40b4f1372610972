"""Parquet read directly has the values of the conversion, or is refused; without tensorflow-io."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from tfrecords import parquet_source
from tfrecords.conversion.description_file import from_toml
from tfrecords.conversion.tabular import TabularFormat
from tfrecords.errors import DataError
from tfrecords.parquet_source import ParquetSource

_TOML = """
format = "parquet"
null_values = ["", "NA"]
label = {label}
[dense]
x = "log1p"
[categorical]
city = {{kind = "text", hash_buckets = 1000}}
"""
_DIRECT = _TOML.format(label='{column = "y", positive_from = 3}')


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Writes a table and opens it; its rows cannot be read, since that needs tensorflow-io."""
    monkeypatch.setattr(parquet_source, "_reading_operation", lambda: None)

    def make(toml=_DIRECT, folder="table", **columns):
        path = tmp_path / folder / "train" / "part.parquet"
        path.parent.mkdir(parents=True)
        given = {"y": [1.0, 3.0], "x": [0.5, 2.0], "city": ["NA", "Bern"]} | columns
        pq.write_table(pa.table(given), path)
        description = from_toml(toml, "t.toml")
        return ParquetSource(str(path.parents[1]), description), path, description

    return make


def test_texts_that_mean_missing(source):
    direct, path, description = source(city=["NA", "Bern"])
    format = TabularFormat(description)
    (piece,) = format.pieces(str(path))
    rows = format.parse(piece).rows
    raw = {"y": tf.constant([1.0, 3.0]), "x": tf.constant([0.5, 2.0])}
    label, dense, city = direct._features(raw | {"city": tf.constant(["NA", "Bern"])})
    assert city.numpy().tolist() == rows.keys[0].tolist()
    # That of the empty text, by TensorFlow itself.
    assert city.numpy()[0] == tf.strings.to_hash_bucket_fast([""], 1000).numpy()[0]
    assert label.numpy().tolist() == rows.label.tolist() == [0, 1]
    np.testing.assert_allclose(dense.numpy(), rows.dense[0], rtol=1e-6)


def test_a_label_that_is_no_number_stays_none(source):
    direct, _, _ = source()
    raw = {"y": tf.constant([np.nan, 5.0, 2.0]), "x": tf.zeros(3), "city": tf.constant(["a"] * 3)}
    label = direct._features(raw)[0].numpy()
    assert np.isnan(label[0]) and label[1:].tolist() == [1, 0]


@pytest.mark.parametrize("kind", [pa.uint32(), pa.uint64()])
@pytest.mark.parametrize("column", ["x", "y", "city"])
def test_unsigned_numbers_are_refused(source, kind, column):
    with pytest.raises(DataError, match=f"column '{column}' of .* holds unsigned numbers"):
        source(**{column: pa.array([4_000_000_000, 1], kind)})


@pytest.mark.parametrize("kind", [pa.uint8(), pa.uint16(), pa.int32()])
def test_small_numbers_are_not(source, kind):
    assert source(x=pa.array([200, 1], kind))[0].rows("train") == 2


def test_text_is_no_number(source):
    toml = _DIRECT
    with pytest.raises(DataError, match="'city' of .* cannot be read as it is described"):
        source(toml.replace('x = "log1p"', 'x = "log1p"\nz = {column = "city"}'))
    # The conversion hashes the number 7, whatever zeros are before it.
    toml = toml.replace('kind = "text"', 'kind = "integer"')
    with pytest.raises(DataError, match="'city' of .* cannot be read as it is described"):
        source(toml, folder="other", city=["007", "7"])


def test_the_fingerprint_is_of_the_content(source, tmp_path, monkeypatch):
    direct, path, description = source()
    shutil.copytree(path.parents[1], tmp_path / "copy")
    monkeypatch.chdir(tmp_path)
    for folder in ("table", "./table", str(tmp_path / "table"), "copy"):
        assert ParquetSource(folder, description).fingerprint == direct.fingerprint
    other, _, _ = source(folder="other", x=[0.5, 3.0])
    assert other.fingerprint != direct.fingerprint
