import errno
import os

import numpy as np
import pytest

from tfrecords import writer as writer_module
from tfrecords.errors import DataError
from tfrecords.reader import RecordSource
from tfrecords.schema import CategoricalColumn, Schema
from tfrecords.writer import DatasetWriter

_SCHEMA = Schema(("x", "y"), (CategoricalColumn("a", 9), CategoricalColumn("b", 5, 2)))


def _rows(count=6, **changes):
    features = {
        "dense": np.ones((count, 2), np.float32),
        "a": np.arange(count),
        "b": np.zeros((count, 2), np.int64),
    }
    return {**features, **changes}


def _with(features, name, position, value):
    features[name][position] = value
    return features


@pytest.mark.parametrize(
    ("features", "label", "message"),
    [
        (_with(_rows(), "dense", (2, 1), np.nan), np.zeros(6), "Row 8 of column 'y' is nan"),
        (_with(_rows(), "dense", (0, 0), np.inf), np.zeros(6), "Row 6 of column 'x' is inf"),
        (_with(_rows(), "a", 3, 9), np.zeros(6), r"Row 9 of column 'a' has the id 9; .* \[0, 9\)"),
        (_with(_rows(), "a", 3, -1), np.zeros(6), "Row 9 of column 'a' has the id -1"),
        (_with(_rows(), "a", 3, 2**32), np.zeros(6), "Row 9 of column 'a' has the id 4294967296"),
        (_with(_rows(), "b", (5, 1), 5), np.zeros(6), "Row 11 of column 'b' has the id 5"),
        (_rows(), [0, 0, 2, 0, 0, 0], "Row 8 of column 'label' is 2.0"),
        (_rows(), [0, np.nan, 0, 0, 0, 0], "Row 7 of column 'label' is nan"),
        (_rows(), np.zeros(5), r"Column 'dense' has the shape \[6, 2\], .* \[5, 2\]"),
        (_rows(a=np.arange(5)), np.zeros(6), r"Column 'a' has the shape \[5\], .* \[6\]"),
        (_rows(a=np.ones(6)), np.zeros(6), "Column 'a' must hold whole numbers, not float64"),
        (_rows(c=np.arange(6)), np.zeros(6), "a column 'c' that the schema does not know"),
        ({"a": np.arange(6)}, np.zeros(6), "The column 'b' of the schema is missing"),
        (_rows(), np.zeros((6, 1)), "one value per row"),
    ],
)
def test_rows_that_are_not_allowed(tmp_path, features, label, message):
    path = tmp_path / "set"
    with pytest.raises(DataError, match=message), DatasetWriter(str(path), _SCHEMA) as writer:
        writer.write("train", _rows(), np.zeros(6))
        writer.write("train", features, np.asarray(label))
    assert os.listdir(tmp_path) == []


def test_labels_between_0_and_1(tmp_path, read_all):
    with DatasetWriter(str(tmp_path / "set"), _SCHEMA) as writer:
        writer.write("train", _rows(2), np.array([0.25, 1.0]))
    source = RecordSource(str(tmp_path / "set"))
    assert read_all(source, "train")[1].tolist() == [0.25, 1.0]
    assert source.info.splits["train"].label_sum == 1.25


def test_an_exception_leaves_the_old_set(tmp_path):
    path = str(tmp_path / "set")
    with DatasetWriter(path, _SCHEMA) as writer:
        writer.write("train", _rows(), np.zeros(6))
    before = RecordSource(path).fingerprint
    with (
        pytest.raises(RuntimeError, match="stop"),
        DatasetWriter(path, _SCHEMA, rows_per_record=2) as writer,
    ):
        writer.write("train", _rows(), np.ones(6))
        raise RuntimeError("stop")
    assert RecordSource(path).fingerprint == before
    assert os.listdir(tmp_path) == ["set"]
    with DatasetWriter(path, _SCHEMA) as writer:
        writer.write("train", _rows(), np.ones(6))
    assert RecordSource(path).fingerprint != before
    assert os.listdir(tmp_path) == ["set"]


@pytest.mark.parametrize("while_finishing", [False, True])
def test_a_full_disk(tmp_path, monkeypatch, while_finishing):
    path = str(tmp_path / "set")
    with DatasetWriter(path, _SCHEMA) as writer:
        writer.write("train", _rows(), np.zeros(6))
    before = RecordSource(path).fingerprint

    def full(data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer_module, "frame", full)
    per_record = 100 if while_finishing else 2
    with (
        pytest.raises(DataError, match=f"no room left for {path}"),
        DatasetWriter(path, _SCHEMA, rows_per_record=per_record) as writer,
    ):
        writer.write("train", _rows(), np.ones(6))
    assert RecordSource(path).fingerprint == before
    assert os.listdir(tmp_path) == ["set"]


def test_folders_that_are_not_replaced(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("precious")
    with pytest.raises(DataError, match="not empty and is no data set"):
        DatasetWriter(str(tmp_path / "notes"), _SCHEMA)
    assert (tmp_path / "notes" / "thesis.txt").read_text() == "precious"
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is a file"):
        DatasetWriter(str(tmp_path / "file"), _SCHEMA)
    assert sorted(os.listdir(tmp_path)) == ["file", "notes"]


def test_two_writers_at_once(tmp_path):
    path = str(tmp_path / "set")
    with DatasetWriter(path, _SCHEMA) as writer:
        with pytest.raises(DataError, match="Another process is writing"):
            DatasetWriter(path, _SCHEMA)
        writer.write("train", _rows(), np.zeros(6))
    assert RecordSource(path).rows("train") == 6


def test_leftovers_of_a_process_that_died(tmp_path):
    path = str(tmp_path / "set")
    with DatasetWriter(path, _SCHEMA) as writer:
        writer.write("train", _rows(), np.zeros(6))
    # It died between the two renames, with files of another run beside it.
    os.rename(path, tmp_path / ".set.replaced")
    (tmp_path / ".set.incomplete").mkdir()
    (tmp_path / ".set.incomplete" / "train-00007.tfrecord").write_text("half")
    (tmp_path / ".set.lock").write_text("")
    with pytest.raises(DataError, match=r"left the earlier data set in .*\.set\.replaced"):
        RecordSource(path)
    with pytest.raises(RuntimeError), DatasetWriter(path, _SCHEMA):
        raise RuntimeError("the next run fails too")
    assert RecordSource(path).rows("train") == 6
    assert os.listdir(tmp_path) == ["set"]
