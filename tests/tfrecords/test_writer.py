import errno
import os
import tempfile

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

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


_FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)


@st.composite
def _tables(draw):
    """A schema, and one row's values for each of some rows: label, dense, ids of each column."""
    columns = tuple(
        CategoricalColumn(f"c{number}", size, hotness)
        for number, (size, hotness) in enumerate(
            draw(
                st.lists(
                    st.tuples(
                        st.sampled_from([1, 7, 2**31 - 1, 2**31, 2**62]),
                        st.sampled_from([1, 2, 5, None]),
                    ),
                    max_size=3,
                )
            )
        )
    )
    dense = tuple(f"d{number}" for number in range(draw(st.integers(0 if columns else 1, 3))))
    ids = [
        st.lists(
            st.integers(0, column.vocabulary_size - 1),
            min_size=column.hotness or 0,
            max_size=column.hotness or 4,
        )
        for column in columns
    ]
    label = st.floats(0, 1, width=32)
    row = st.tuples(label, st.tuples(*[_FLOATS for _ in dense]), st.tuples(*ids))
    return Schema(dense, columns), draw(st.lists(row, max_size=30))


def _as_features(schema, rows):
    features = {}
    if schema.dense:
        features["dense"] = np.array([row[1] for row in rows], np.float32).reshape(
            -1, len(schema.dense)
        )
    for number, column in enumerate(schema.categorical):
        bags = [row[2][number] for row in rows]
        flat = np.array([value for bag in bags for value in bag], np.int64)
        if column.hotness is None:
            features[column.name] = flat, np.array([len(bag) for bag in bags], np.int64)
        else:
            shape = (len(rows),) if column.hotness == 1 else (len(rows), column.hotness)
            features[column.name] = flat.reshape(shape)
    return features, np.array([row[0] for row in rows], np.float32)


# Without tf.data, of which one try takes half a second; test_reader has that.
@hypothesis.given(_tables(), st.integers(1, 9), st.integers(1, 4), st.integers(1, 11))
def test_any_rows_are_read_as_they_were_written(
    read_blocks, table, rows_per_record, records_per_file, rows_per_write
):
    schema, rows = table
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "set")
        with DatasetWriter(path, schema, None, rows_per_record, records_per_file) as writer:
            writer.write("train", *_as_features(schema, []))
            for start in range(0, len(rows), rows_per_write):
                writer.write("train", *_as_features(schema, rows[start : start + rows_per_write]))
        got = []
        if rows:
            features, label = read_blocks(path, "train")
            dense = features.get("dense", np.zeros((len(label), 0)))
            columns = [features[column.name] for column in schema.categorical]
            got = [
                (
                    float(label[place]),
                    tuple(dense[place].tolist()),
                    tuple(np.reshape(column[place], -1).tolist() for column in columns),
                )
                for place in range(len(label))
            ]
        assert RecordSource(path).rows("train") == len(rows)
    # As text, where -0.0 is not 0.0.
    assert str(got) == str(rows)
