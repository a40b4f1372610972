"""Parquet files that are read as they are: what a conversion of them would hold."""

import datetime
import io
import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from tf_dlrm.errors import UserError
from tf_dlrm.training.options.config import DataOptions, TrainingConfig
from tf_dlrm.training.run import train
from tfrecords import files
from tfrecords.conversion.convert import convert
from tfrecords.conversion.description_file import from_toml
from tfrecords.conversion.options import Options
from tfrecords.conversion.tabular import TabularFormat
from tfrecords.errors import DataError
from tfrecords.progress import Progress
from tfrecords.reader import RecordSource
from tfrecords.table_files import TableFile
from tfrecords.table_source import TableSource

TOML = """
format = "parquet"
other_columns = "ignore"
[label]
column = "click"
[dense]
price = "log1p"
row = "none"
[categorical]
user = {kind = "integer", vocabulary_size = 50}
row_id = {kind = "integer", vocabulary_size = 100000}
city = {kind = "text", hash_buckets = 9}
"""


def table(rows: int, first: int = 0, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    return {
        "click": rng.integers(0, 2, rows).astype(np.int32),
        "price": rng.random(rows) * 10 - 1,
        "row": np.arange(first, first + rows, dtype=np.float32),
        "user": rng.integers(0, 50, rows).astype(np.int32),
        "row_id": np.arange(first, first + rows),
        "city": np.array([f"city {i}" for i in rng.integers(0, 30, rows)]),
        "other": rng.random(rows),
    }


def description(toml: str = TOML):
    return from_toml(toml, "table.toml")


@pytest.fixture
def parquet(tmp_path):
    def write(columns: dict, name: str = "train/part-0.parquet", rows: int = 10000, **options):
        path = tmp_path / "table" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path, row_group_size=rows, **options)
        return str(tmp_path / "table")

    return write


def everything(source, split="train", **arguments):
    features, labels = {}, []
    for batch, label in source.batches(split, 1000, **arguments):
        labels.append(label.numpy())
        for name, column in batch.items():
            features.setdefault(name, []).append(column.numpy())
    return {name: np.concatenate(parts) for name, parts in features.items()}, np.concatenate(labels)


@pytest.mark.parametrize(
    "options",
    [{}, {"data_page_size": 4096}, {"compression": "zstd", "data_page_version": "2.0"}],
)
def test_the_values_are_those_of_the_files(parquet, options):
    first, second = table(25000), table(7000, 25000, seed=1)
    folder = parquet(first, **options)
    parquet(second, "train/part-1.parquet", rows=300, **options)
    parquet(second, "evaluation/part-0.parquet")
    source = TableSource(folder, description())
    assert (source.rows("train"), source.rows("evaluation")) == (32000, 7000)
    both = {name: np.concatenate([first[name], second[name]]) for name in first}
    features, label = everything(source)
    np.testing.assert_array_equal(label, both["click"])
    price = np.log1p(np.maximum(both["price"], 0)).astype(np.float32)
    np.testing.assert_array_equal(features["dense"][:, 0], price)
    np.testing.assert_array_equal(features["dense"][:, 1], both["row"])
    np.testing.assert_array_equal(features["user"], both["user"])
    np.testing.assert_array_equal(features["row_id"], both["row_id"])
    hashed = tf.strings.to_hash_bucket_fast(tf.constant(both["city"].tolist()), 9)
    np.testing.assert_array_equal(features["city"], hashed)
    assert features["user"].dtype == np.int32


def test_a_table_behind_tensorflows_file_systems(parquet, monkeypatch):
    # The store in this process's memory is enough to see what Arrow asks of such a file.
    monkeypatch.setattr(files, "_remote_schemes", lambda: ("ram",))
    folder = parquet(table(20000), rows=5000)
    tf.io.gfile.makedirs("ram://tables/train")
    tf.io.gfile.copy(f"{folder}/train/part-0.parquet", "ram://tables/train/part-0.parquet")
    there, here = TableSource("ram://tables", description()), TableSource(folder, description())
    assert there.fingerprint == here.fingerprint
    found, expected = (everything(source, shuffle_seed=1)[0] for source in (there, here))
    np.testing.assert_array_equal(found["row_id"], expected["row_id"])
    np.testing.assert_array_equal(found["city"], expected["city"])


def test_the_order_is_that_of_seed_and_epoch(parquet):
    folder = parquet(table(45000))
    source = TableSource(folder, description(), shuffle_window_rows=20000)
    whole, label = everything(source, shuffle_seed=5, epoch=1)
    ids = whole["row_id"]
    assert sorted(ids) == list(range(45000)) and list(ids[:100]) != sorted(ids[:100])
    np.testing.assert_array_equal(label, table(45000)["click"][ids])
    np.testing.assert_array_equal(whole["dense"][:, 1], ids)
    rest, _ = everything(source, shuffle_seed=5, epoch=1, first_row=23456)
    np.testing.assert_array_equal(rest["row_id"], ids[23456:])
    other, _ = everything(source, shuffle_seed=5, epoch=2)
    assert list(other["row_id"]) != list(ids)


def test_files_of_different_types(parquet):
    folder = parquet(table(500))
    wider = table(500, 500) | {"user": table(500)["user"].astype(np.int64)}
    parquet(wider, "train/part-1.parquet")
    features, _ = everything(TableSource(folder, description()))
    expected = np.concatenate([table(500)["user"], wider["user"]])
    np.testing.assert_array_equal(features["user"], expected)


@pytest.mark.parametrize(
    ("column", "value", "sentence"),
    [
        ("user", 50, r"column 'user' is 50, where an id in \[0, 50\) is needed"),
        ("user", -1, r"column 'user' is -1, where an id in"),
        ("price", np.nan, "column 'price' is nan, where a number is needed"),
        ("click", 2, "column 'click' is 2, where a number from 0 to 1 is needed"),
    ],
)
def test_a_wrong_value_stops_the_reading_and_is_named(parquet, column, value, sentence):
    columns = table(25000)
    columns[column][20007] = value
    source = TableSource(parquet(columns), description())
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        everything(source)
    said = rf"Row 20007 of .*part-0.parquet is no row: {sentence}"
    assert re.match(said, source.explain(caught.value))


def test_missing_values(parquet):
    columns = table(100)
    columns["user"] = pa.array([None if i == 60 else 1 for i in range(100)], pa.int32())
    source = TableSource(parquet(columns), description())
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        everything(source)
    assert "Row 60 of " in source.explain(caught.value)
    allowed = TOML.replace("vocabulary_size = 50", "vocabulary_size = 50, missing = 7")
    features, _ = everything(TableSource(parquet(columns), description(allowed)))
    assert features["user"].tolist() == [7 if i == 60 else 1 for i in range(100)]


def test_a_replaced_file_is_another_source(parquet):
    first = TableSource(parquet(table(500)), description())
    everything(first)
    second = TableSource(parquet(table(500, seed=9)), description())
    assert first.fingerprint != second.fingerprint
    np.testing.assert_array_equal(everything(second)[0]["user"], table(500, seed=9)["user"])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("hash_buckets = 9", "min_count = 2"), "'city' has neither vocabulary_size"),
        (
            ('price = "log1p"', 'cost = "log1p"'),
            "has no column 'cost', which the description names",
        ),
        (('format = "parquet"', 'format = "csv"'), "holds no CSV files"),
        (
            ('city = {kind = "text", hash_buckets', 'price2 = {column = "price", hash_buckets'),
            "'price' is of type double, where text or whole numbers are needed",
        ),
    ],
)
def test_what_needs_a_conversion_says_so(parquet, change, sentence):
    folder = parquet(table(50))
    with pytest.raises(DataError, match=sentence):
        TableSource(folder, description(TOML.replace(*change)))


def test_lists_and_folders_without_files(parquet, tmp_path):
    columns = table(50) | {"city": pa.array([["a", "b"]] * 50)}
    with pytest.raises(DataError, match="'city' is of type list.*, where text or whole"):
        TableSource(parquet(columns), description())
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no Parquet files"):
        TableSource(str(tmp_path / "empty"), description())
    with pytest.raises(DataError, match="There is no folder"):
        TableSource(str(tmp_path / "none"), description())
    broken = tmp_path / "broken" / "train"
    broken.mkdir(parents=True)
    (broken / "x.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match="x.parquet is no Parquet file, or is damaged"):
        TableSource(str(tmp_path / "broken"), description())


@pytest.mark.parametrize("by", ["row", "block", "file"])
def test_shards_are_together_all_rows(parquet, by):
    for part in range(2):
        folder = parquet(table(16000, 16000 * part), f"train/part-{part}.parquet", rows=8000)
    source = TableSource(folder, description(), shuffle_window_rows=32000)
    common = {"shuffle_seed": 1, "epoch": 1}
    shards = [
        everything(source, shard_index=i, shard_count=2, shard_by=by, **common)[0]["row_id"]
        for i in range(2)
    ]
    assert [len(ids) for ids in shards] == [16000, 16000]
    assert np.array_equal(np.sort(np.concatenate(shards)), np.arange(32000))
    if by == "row":
        whole = everything(source, **common)[0]["row_id"]
        assert np.array_equal(np.stack(shards, axis=1).reshape(-1), whole)
    if by == "file":
        assert {tuple(np.unique(ids // 16000)) for ids in shards} == {(0,), (1,)}


def labels(*values, dtype=np.int32):
    """A table of two row groups of 50 rows, whose labels come one after the other again."""
    return table(100) | {"click": np.resize(np.array(values, dtype), 100)}


ALIKE = {
    "zeros": (labels(0), {}, "", 0),
    "ones": (labels(1), {}, "", 1),
    "true": (labels(True, dtype=bool), {}, "", 1),
    "halves": (labels(0.5, dtype=float), {}, "", 0.5),
    "above a threshold": (labels(3, 4, 5), {}, "positive_from = 3", 1),
    "below a threshold": (labels(3, 4, 5), {}, "positive_from = 6", 0),
    "without statistics": (labels(1), {"write_statistics": False}, "", 1),
}
DIFFERENT = {
    "both": (labels(0, 1), {}, ""),
    "true and false": (labels(True, False, dtype=bool), {}, ""),
    "on both sides of a threshold": (labels(3, 4, 5), {}, "positive_from = 4"),
    "without statistics": (labels(0, 0, 0, 1), {"write_statistics": False}, ""),
    # The statistics know neither NaN nor what is allowed; reading names the row.
    "NaN": (labels(1, np.nan, dtype=float), {}, ""),
    "NaN at a threshold": (labels(1, np.nan, dtype=float), {}, "positive_from = 1"),
    "nothing that is allowed": (labels(2), {}, ""),
}


def opened(parquet, columns, options, label):
    """The source of a table, no column of which may have missing values."""
    made = pa.table(columns)
    required = pa.schema([field.with_nullable(False) for field in made.schema])
    folder = parquet(made.cast(required), rows=50, **options)
    return TableSource(folder, description(TOML.replace("[dense]", f"{label}\n[dense]")))


@pytest.mark.parametrize("case", ALIKE)
def test_labels_that_are_alike(parquet, case):
    *made, label = ALIKE[case]
    assert opened(parquet, *made).only_label("train") == label


@pytest.mark.parametrize("case", DIFFERENT)
def test_labels_that_are_not_known_to_be_alike(parquet, case):
    assert opened(parquet, *DIFFERENT[case]).only_label("train") is None


def test_labels_of_a_split_are_those_of_all_its_files(parquet):
    for number, label in enumerate([0, 0, 1]):
        folder = parquet(labels(label), f"train/part-{number}.parquet")
    parquet(labels(0), "evaluation/part-0.parquet")
    source = TableSource(folder, description())
    assert (source.only_label("train"), source.only_label("evaluation")) == (None, 0)


def test_statistics_that_differ_spare_reading_the_labels(parquet, monkeypatch):
    read = []
    rows = TableFile.read
    monkeypatch.setattr(
        TableFile, "read", lambda *given: read.append((given[1].rows, given[2])) or rows(*given)
    )
    assert opened(parquet, *DIFFERENT["both"]).only_label("train") is None
    assert not read
    opened(parquet, *DIFFERENT["without statistics"]).only_label("train")
    assert read == [(100, ["click"])]


def test_training_on_rows_of_one_label_is_refused(parquet, tmp_path):
    (tmp_path / "table.toml").write_text(TOML)
    data = DataOptions(
        data="table", data_dir=parquet(labels(1)), data_schema=str(tmp_path / "table.toml")
    )
    with pytest.raises(UserError) as refused:
        train(TrainingConfig(data=data))
    assert str(refused.value) == (
        "All 100 training rows have the label 1, so there is nothing to learn. Train on rows of "
        "both labels, or correct what the label is made of."
    )


EVERY = """
format = "parquet"
null_values = ["", "NA"]
label = {column = "y", positive_values = ["yes"]}
[dense]
d = {transform = "log1p", missing = 1}
[categorical]
text = {kind = "text", min_count = 2}
whole = "integer"
hex = "hexadecimal"
tags = {hotness = "any"}
pair = {kind = "integer", hotness = 2, vocabulary_size = 9}
city = {column = "text", hash_buckets = 11}
unsigned = {kind = "integer", hash_buckets = 13}
hour = {column = "time", kind = "datetime", datetime_format = "iso", part = "hour_of_day"}
"""


def every(rows: int, seed: int) -> dict:
    rng = np.random.default_rng(seed)

    def some(*values, kind=None):
        return pa.array([values[i] for i in rng.integers(0, len(values), rows)], kind)

    return {
        "y": some("yes", "no"),
        "d": some(None, 3.5, -1.0, 7.0),
        "text": some("a", "b", "NA", "", None, *(f"seldom {i}" for i in range(9))),
        "whole": some(5, -7, None, 2**40, kind=pa.int64()),
        "hex": some("ff", "0A", "", None),
        "tags": some(["a"], [], None, ["b", "NA", "a"], kind=pa.list_(pa.string())),
        "pair": some([1, 2], [8, 0], kind=pa.list_(pa.int32())),
        "unsigned": some(4_000_000_000, 1, kind=pa.uint32()),
        "time": some(
            datetime.datetime(2020, 1, 2, 3), datetime.datetime(1960, 1, 1, 23, 59),
            kind=pa.timestamp("ms"),
        ),
    }  # fmt: skip


@pytest.fixture
def converted(parquet, tmp_path):
    """A table, the data set of its training rows, and its description."""
    described = description(EVERY)
    folder = parquet(every(9000, 0), rows=3000)
    new = {"text": pa.array(["new", "a"] * 250)}
    parquet(every(500, 1) | new, "evaluation/part-0.parquet")
    convert(
        [f"{folder}/train/part-0.parquet"],
        str(tmp_path / "data"),
        TabularFormat(described),
        Options(split="none", on_odd_labels="accept"),
        Progress(io.StringIO()),
        threads=1,
    )
    return folder, str(tmp_path / "data"), described


def test_the_vocabulary_of_a_data_set_gives_the_ids_of_its_conversion(converted, read_all):
    folder, data, described = converted
    source = TableSource(folder, described, vocabulary_of=data)
    assert source.schema == RecordSource(data).schema
    wanted, labels = read_all(RecordSource(data), "train")
    found, own = read_all(source, "train")
    np.testing.assert_array_equal(own, labels)
    for name, column in wanted.items():
        if isinstance(column, list):
            assert found[name] == column and name == "tags"
        else:
            np.testing.assert_array_equal(found[name], column)
    # Values that the training rows have not are out of the vocabulary.
    ids = read_all(source, "evaluation")[0]["text"]
    assert set(ids[::2]) == {0} and len(set(ids[1::2]) - {0}) == 1


def test_vocabularies_that_cannot_be_used(converted, tmp_path):
    folder, data, described = converted
    first = TableSource(folder, described, vocabulary_of=data)
    with pytest.raises(DataError, match="'text' has neither vocabulary_size .* name the data set"):
        TableSource(folder, described)
    other = description(EVERY.replace('"NA"]', '"-"]'))
    with pytest.raises(DataError, match=r"Feature text is a counted text value, missing where"):
        TableSource(folder, other, vocabulary_of=data)
    renamed = description(
        EVERY.replace('whole = "integer"', 'w = {kind = "integer", column = "whole"}')
    )
    with pytest.raises(DataError, match="has no vocabulary of 'w'; it has text, whole, hex, tags"):
        TableSource(folder, renamed, vocabulary_of=data)
    copy = str(shutil.copytree(data, tmp_path / "copy"))
    assert TableSource(folder, described, vocabulary_of=copy).fingerprint == first.fingerprint
    (tmp_path / "copy" / "vocabulary" / "hex.npy").write_bytes(b"damaged")
    with pytest.raises(DataError, match="hex.npy is missing or damaged"):
        TableSource(folder, described, vocabulary_of=copy)


def test_the_fingerprint_is_of_the_content(parquet, tmp_path, monkeypatch):
    folder = parquet(table(500))
    source = TableSource(folder, description())
    shutil.copytree(folder, tmp_path / "copy")
    monkeypatch.chdir(tmp_path)
    for other in ("table", "./table", "copy"):
        assert TableSource(other, description()).fingerprint == source.fingerprint
