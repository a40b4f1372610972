"""Files that changed after they were written."""

import collections
import contextlib
import dataclasses
import io
import os

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrecords import block, files, verify
from tfrecords.dataset_info import DatasetInfo
from tfrecords.errors import DataError
from tfrecords.reader import RecordSource
from tfrecords.record_format import header_of, read_records
from tfrecords.schema import CategoricalColumn, Schema
from tfrecords.writer import DatasetWriter


def _flip(path, position):
    with open(path, "r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1]))


def _read(source, **arguments):
    for _ in source.batches("train", 64, **arguments):
        pass


@pytest.mark.parametrize(
    ("seed", "within", "what"),
    [(None, 40, "its data"), (1, 2, "its length"), (None, -1, "its data")],
)
def test_a_flipped_bit_is_found_while_reading(numbered, seed, within, what):
    path, _, _ = numbered(500)
    source = RecordSource(path)
    file = source.info.splits["train"].files[1]
    begin, end = file.offsets[1], file.offsets[2]
    _flip(os.path.join(path, file.path), (begin if within >= 0 else end) + within)
    with pytest.raises(tf.errors.DataLossError) as caught:
        _read(source, shuffle_seed=seed)
    assert f"Record 1 of {os.path.join(path, file.path)} is broken: the checksum of {what}" in (
        source.explain(caught.value)
    )


@pytest.mark.parametrize(
    ("record", "length"), [(0, 0), (0, 2**40), (1, 2**40), (0, 2**63), (0, 2**64 - 16)]
)
def test_a_wrong_length_with_a_right_checksum_does_not_end_the_process(numbered, record, length):
    path, _, _ = numbered(200)
    source = RecordSource(path)
    file = source.info.splits["train"].files[0]
    with open(os.path.join(path, file.path), "r+b") as stream:
        stream.seek(file.offsets[record])
        stream.write(header_of(length))
    with pytest.raises(DataError) as caught:
        _read(source)
    begin, end = [*file.offsets, file.size][record : record + 2]
    assert str(caught.value).startswith(
        f"Record {record} of {os.path.join(path, file.path)} is broken: its length is {length} "
        f"bytes, where dataset.json leaves it {end - begin - 16}."
    )


def test_any_changed_byte_is_found(numbered):
    path, _, _ = numbered(200)
    info = DatasetInfo.load(path).splits["train"].files[0]
    with open(os.path.join(path, info.path), "rb") as stream:
        content = stream.read()
    whole = [data for _, data in read_records(io.BytesIO(content))]
    assert len(whole) == len(info.offsets) == 3

    @settings(max_examples=300)
    @given(place=st.integers(0, len(content) - 1), bits=st.integers(1, 255))
    def found(place, bits):
        changed, got = bytearray(content), []
        changed[place] ^= bits
        with pytest.raises(ValueError, match="the checksum of its (data|length) is wrong"):
            for _, data in read_records(io.BytesIO(changed)):
                got.append(data)
        assert got == whole[: np.searchsorted(info.offsets, place, side="right") - 1]

    found()


@pytest.mark.parametrize("lost", [1, 700])
def test_a_file_truncated_while_reading(numbered, lost):
    path, _, _ = numbered(500)
    source = RecordSource(path)
    file = source.info.splits["train"].files[-1]
    os.truncate(os.path.join(path, file.path), file.size - lost)
    with pytest.raises(tf.errors.OpError) as caught:
        _read(source)
    said = source.explain(caught.value)
    assert file.path in said and "the file ends within it" in said
    assert f"{file.size - lost} bytes" in said and f"{file.size}" in said


def test_a_file_truncated_between_records_while_reading(numbered):
    path, _, _ = numbered(500)
    source = RecordSource(path)
    file = source.info.splits["train"].files[-1]
    assert len(file.offsets) == 1
    os.truncate(os.path.join(path, file.path), 0)
    with pytest.raises(tf.errors.OpError) as caught:
        _read(source)
    assert "records, where dataset.json says" in source.explain(caught.value)


def test_a_truncated_or_missing_file_is_found_at_once(numbered):
    path, _, _ = numbered(500)
    file = DatasetInfo.load(path).splits["train"].files[0]
    os.truncate(os.path.join(path, file.path), file.size - 3)
    with pytest.raises(
        DataError, match=f"{file.path} .* has {file.size - 3} bytes, .* {file.size}: it is trunc"
    ):
        RecordSource(path)
    os.remove(os.path.join(path, file.path))
    with pytest.raises(DataError, match=f"{file.path} of the split 'train' is missing"):
        RecordSource(path)


@pytest.fixture
def unchecked(tmp_path, monkeypatch):
    """Writes rows of which one value is not allowed."""

    def write(column, row, value):
        path = str(tmp_path / "set")
        schema = Schema(
            ("x", "y"),
            (
                CategoricalColumn("a", 9),
                CategoricalColumn("b", 5, 2),
                CategoricalColumn("bag", 7, None),
            ),
        )
        columns = {
            "dense": np.ones((40, 2), np.float32),
            "a": np.arange(40) % 9,
            "b": np.zeros((40, 2), np.int32),
            "bag": np.zeros(60, np.int32),
            "label": np.zeros(40, np.float32),
        }
        columns[column][row] = value
        label = columns.pop("label")
        columns["bag"] = columns["bag"], np.arange(40) % 4
        with (
            monkeypatch.context() as patched,
            DatasetWriter(path, schema, rows_per_record=10) as writer,
        ):
            patched.setattr(block, "check", lambda *arguments: None)
            writer.write("train", columns, label)
        return path

    return write


_NOT_ALLOWED = [
    ("a", 13, 9, "Row 3 of column 'a' has the id 9"),
    ("a", 13, -1, "Row 3 of column 'a' has the id -1"),
    ("b", (14, 1), 5, "Row 4 of column 'b' has the id 5"),
    ("bag", 17, 7, "Row 1 of column 'bag' has the id 7"),  # rows 11 and 12 have 3 and 0 ids
    ("dense", (11, 1), np.nan, "Row 1 of column 'y' is nan"),
    ("dense", (11, 0), np.inf, "Row 1 of column 'x' is inf"),
    ("label", 12, np.nan, "Row 2 of column 'label' is nan"),
]


@pytest.mark.parametrize(("column", "row", "value", "message"), _NOT_ALLOWED)
def test_values_that_are_not_allowed(unchecked, column, row, value, message):
    path = unchecked(column, row, value)
    said = verify.first_problem(path, DatasetInfo.load(path))
    assert said.startswith(f"Record 1 of {path}/train-00000.tfrecord holds a value")
    assert message in said


@pytest.mark.parametrize("case", [0, 2, 3, 4, 6])
def test_values_that_are_not_allowed_while_reading(unchecked, case):
    column, row, value, message = _NOT_ALLOWED[case]
    source = RecordSource(unchecked(column, row, value))
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        _read(source)
    assert message in source.explain(caught.value)


def test_an_error_from_elsewhere(numbered):
    source = RecordSource(numbered(100)[0])
    said = source.explain(ValueError("the network fell over\nand more"))
    assert "its files are whole" in said and said.endswith("the network fell over.")


def test_verify_finds_a_column_that_the_description_lost(numbered):
    path, _, _ = numbered(60)
    info = DatasetInfo.load(path)
    kept = dataclasses.replace(info.schema, categorical=info.schema.categorical[1:])
    problem = verify.first_problem(path, dataclasses.replace(info, schema=kept))
    lost = info.schema.categorical[0].name
    assert f"it has the column {lost!r}, which the schema does not have" in problem


def test_verify_finds_a_file_with_another_checksum(numbered):
    path, _, _ = numbered(100)
    info = DatasetInfo.load(path)
    assert list(verify.problems(path, info)) == []
    split = info.splits["train"]
    changed = dataclasses.replace(split.files[0], crc32c="00000000")
    split = dataclasses.replace(split, files=(changed, *split.files[1:]))
    info = dataclasses.replace(info, splits={"train": split})
    assert "The checksum of" in list(verify.problems(path, info))[0]


def test_verify_finds_too_few_rows(numbered):
    path, _, _ = numbered(100)
    info = DatasetInfo.load(path)
    split = dataclasses.replace(info.splits["train"], rows=101)
    info = dataclasses.replace(info, splits={"train": split})
    assert "it has 50 rows, where dataset.json says 51" in verify.first_problem(path, info)


def test_every_file_is_read_once(numbered, monkeypatch):
    path, _, _ = numbered(500)
    info = DatasetInfo.load(path)
    read = collections.Counter()
    opened = files.open_file

    class Counted:
        def __init__(self, name, stream):
            self._name, self._stream = os.path.relpath(name, path), stream

        def read(self, *size):
            data = self._stream.read(*size)
            read[self._name] += len(data)
            return data

    @contextlib.contextmanager
    def counted(name, mode="rb"):
        with opened(name, mode) as stream:
            yield Counted(name, stream)

    monkeypatch.setattr(files, "open_file", counted)
    assert list(verify.problems(path, info)) == []
    sizes = {file.path: file.size for split in info.splits.values() for file in split.files}
    assert len(sizes) > 1 and read == sizes
    # And the checksum is that of all that was read.
    split = info.splits["train"]
    wrong = [dataclasses.replace(file, crc32c="00000000") for file in split.files]
    changed = dataclasses.replace(
        info, splits={"train": dataclasses.replace(split, files=tuple(wrong))}
    )
    found = list(verify.problems(path, changed))
    assert len(found) == len(wrong) and all("The checksum of" in problem for problem in found)
