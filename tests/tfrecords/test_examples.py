import gzip
import json
import os
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfrecords import examples
from tfrecords.errors import DataError
from tfrecords.examples import export_examples, import_examples, read_examples
from tfrecords.reader import RecordSource
from tfrecords.record_format import frame, read_records
from tfrecords.schema import CategoricalColumn, Schema
from tfrecords.writer import DatasetWriter


@pytest.mark.parametrize(("rows", "compress"), [(1, False), (120, True), (121, False)])
def test_rows_come_back(numbered, read_blocks, tmp_path, rows, compress):
    source = RecordSource(numbered(rows)[0])
    export_examples(source, str(tmp_path / "rows"), rows_per_file=50, compress=compress)
    assert len(os.listdir(tmp_path / "rows")) == -(-rows // 50) + 1
    import_examples(str(tmp_path / "rows"), str(tmp_path / "back"))
    assert RecordSource(str(tmp_path / "back")).schema == source.schema
    expected = read_blocks(tmp_path / "numbered", "train")
    got = read_blocks(tmp_path / "back", "train")
    np.testing.assert_array_equal(got[1], expected[1])
    for name in expected[0]:
        assert list(map(str, got[0][name])) == list(map(str, expected[0][name])), name


def test_tensorflow_reads_the_files(numbered, tmp_path):
    path, features, label = numbered(20)
    export_examples(RecordSource(path), str(tmp_path / "rows"), compress=True)
    records = tf.data.TFRecordDataset(
        str(tmp_path / "rows" / "train-00000-of-00001.tfrecord.gz"), "GZIP"
    )
    examples = [tf.train.Example.FromString(record.numpy()) for record in records]
    assert len(examples) == 20
    found = examples[7].features.feature
    assert found["pair"].int64_list.value == features["pair"][7].tolist()
    assert found["noise"].float_list.value == [features["dense"][7, 1]]
    assert found["label"].float_list.value == [label[7]]


_ROWS = st.lists(
    st.tuples(
        st.floats(0, 1, width=32),
        st.floats(width=32, allow_nan=False, allow_infinity=False),
        st.integers(0, 2**40 - 1),
        st.lists(st.integers(0, 8), max_size=4),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=_ROWS, at_once=st.integers(1, 5))
def test_any_rows_are_read(tmp_path, rows, at_once):
    schema = Schema(("x",), (CategoricalColumn("big", 2**40), CategoricalColumn("bag", 9, None)))
    path = str(tmp_path / "rows")
    _write(path, [{"label": [r[0]], "x": [r[1]], "big": [r[2]], "bag": r[3]} for r in rows])
    got = []
    with mock.patch.object(examples, "_ROWS_AT_ONCE", at_once):
        for features, label in read_examples(path, schema):
            values, lengths = features["bag"]
            bags = [ids.tolist() for ids in np.split(values, np.cumsum(lengths))[:-1]]
            columns = label.tolist(), features["dense"][:, 0].tolist(), features["big"].tolist()
            got += zip(*columns, bags, strict=True)
    # As text, where -0.0 is not 0.0.
    assert str(got) == str(rows)


@settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=_ROWS, rows_per_file=st.integers(1, 5))
def test_any_rows_are_written(tmp_path, rows, rows_per_file):
    schema = Schema(("x",), (CategoricalColumn("big", 2**40), CategoricalColumn("bag", 9, None)))
    with DatasetWriter(str(tmp_path / "set"), schema, rows_per_record=4) as writer:
        features = {
            "dense": np.array([[row[1]] for row in rows], np.float32),
            "big": np.array([row[2] for row in rows]),
            "bag": (
                np.array([i for row in rows for i in row[3]], np.int64),
                np.array([len(row[3]) for row in rows]),
            ),
        }
        writer.write("train", features, np.array([row[0] for row in rows], np.float32))
    export_examples(RecordSource(str(tmp_path / "set")), str(tmp_path / "rows"), rows_per_file)
    got = []
    for path in sorted((tmp_path / "rows").glob("*.tfrecord")):
        with open(path, "rb") as file:
            records = [tf.train.Example.FromString(data) for _, data in read_records(file)]
        assert 1 <= len(records) <= rows_per_file
        for example in records:
            feature = example.features.feature
            (label,), (x,) = feature["label"].float_list.value, feature["x"].float_list.value
            (big,), bag = feature["big"].int64_list.value, feature["bag"].int64_list.value
            got.append((label, x, big, list(bag)))
    assert str(got) == str(rows)


def _write(path, rows):
    with open(path, "wb") as file:
        for row in rows:
            features = {}
            for name, values in row.items():
                kind = "float_list" if values and isinstance(values[0], float) else "int64_list"
                features[name] = tf.train.Feature(**{kind: {"value": values}})
            example = tf.train.Example(features=tf.train.Features(feature=features))
            data = example.SerializeToString()
            header, footer = frame(data)
            file.write(header + data + footer)


_SCHEMA = Schema(("x",), (CategoricalColumn("a", 9),))


def test_whole_numbers_and_other_features_are_taken(tmp_path):
    path = str(tmp_path / "f")
    _write(path, [{"label": [1], "x": [7], "a": [3], "other": [5]}])
    ((features, label),) = read_examples(path, _SCHEMA)
    assert features["dense"].tolist() == [[7.0]] and label.tolist() == [1.0]
    assert features["a"].tolist() == [3] and set(features) == {"dense", "a"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"label": [1.0], "x": [0.5]}, "Record 1 of .*f is no Example of the schema's columns"),
        ({"label": [1.0], "x": [0.5], "a": [1, 2]}, "Record 1 of .*f is no Example"),
        ({"label": [1.0], "x": [0.5], "a": [9]}, "f holds .* Row 1 of column 'a' has the id 9"),
        ({"label": [1.0], "x": [float("nan")], "a": [1]}, "f holds .* Row 1 of column 'x' is nan"),
    ],
)
@pytest.mark.parametrize("at_once", [8192, 1])
def test_errors_name_file_and_record(tmp_path, monkeypatch, row, message, at_once):
    monkeypatch.setattr(examples, "_ROWS_AT_ONCE", at_once)
    path = str(tmp_path / "f")
    good = {"label": [0.0], "x": [0.5], "a": [1]}
    _write(path, [good, row, good])
    with pytest.raises(DataError, match=message) as raised:
        list(read_examples(path, _SCHEMA))
    assert "is broken" not in str(raised.value)


def test_any_changed_byte_of_a_compressed_file_is_found_or_of_no_effect(tmp_path):
    path = tmp_path / "f.gz"
    _write(tmp_path / "f", [{"label": [0.0], "x": [k / 8], "a": [k % 9]} for k in range(20)])
    content = gzip.compress((tmp_path / "f").read_bytes(), mtime=0)
    found = []

    @settings(max_examples=300)
    @given(place=st.integers(0, len(content) - 1), bits=st.integers(1, 255))
    def look(place, bits):
        changed = bytearray(content)
        changed[place] ^= bits
        path.write_bytes(changed)
        try:
            ((features, _),) = read_examples(str(path), _SCHEMA)
        except DataError as error:
            found.append(str(error))
        else:
            assert features["dense"][:, 0].tolist() == [k / 8 for k in range(20)]

    look()
    assert len(found) > 200 and all(str(path) in said for said in found)


def test_a_broken_file_leaves_no_data_set(numbered, tmp_path):
    export_examples(RecordSource(numbered(60)[0]), str(tmp_path / "rows"), rows_per_file=30)
    path = tmp_path / "rows" / "train-00001-of-00002.tfrecord"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError, match=f"Record 29 of {path} is broken: the file ends within it"):
        import_examples(str(tmp_path / "rows"), str(tmp_path / "back"))
    assert not (tmp_path / "back").exists()
    path.unlink()
    with pytest.raises(DataError, match="needs the files train-00000-of-00002.tfrecord to train"):
        import_examples(str(tmp_path / "rows"), str(tmp_path / "back"))
    (tmp_path / "rows" / "schema.json").write_text("[")
    with pytest.raises(DataError, match="schema.json is no schema"):
        import_examples(str(tmp_path / "rows"), str(tmp_path / "back"))


def test_files_without_a_record(numbered, tmp_path):
    export_examples(RecordSource(numbered(60)[0]), str(tmp_path / "rows"))
    for path in (tmp_path / "rows").glob("*.tfrecord"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match=f"of the split 'train' in {tmp_path / 'rows'} hold no"):
        import_examples(str(tmp_path / "rows"), str(tmp_path / "back"))
    assert not (tmp_path / "back").exists()


def test_a_truncated_compressed_file(numbered, tmp_path):
    export_examples(RecordSource(numbered(60)[0]), str(tmp_path / "rows"), compress=True)
    path = tmp_path / "rows" / "train-00000-of-00001.tfrecord.gz"
    assert gzip.decompress(path.read_bytes())
    path.write_bytes(path.read_bytes()[:-20])
    schema = Schema.from_json(json.loads((tmp_path / "rows" / "schema.json").read_text()))
    with pytest.raises(DataError, match=f"of {path} is broken"):
        list(read_examples(str(path), schema))


def test_a_damaged_data_set_is_not_exported(numbered, tmp_path):
    path, _, _ = numbered(120)
    source = RecordSource(path)
    name = os.path.join(path, source.info.splits["train"].files[0].path)
    with open(name, "r+b") as file:
        file.seek(40)
        file.write(b"\xff\xff")
    with pytest.raises(DataError, match=f"Record 0 of {name} is broken: the checksum of its data"):
        export_examples(source, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
