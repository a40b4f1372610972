"""Conversion against a plain-Python reading of the same lines."""

import collections
import gzip
import io
import math
import os

import numpy as np
import pytest

from tfrecords.conversion import text_input
from tfrecords.conversion.criteo import CriteoFormat
from tfrecords.conversion.options import Options
from tfrecords.dataset_info import DatasetInfo
from tfrecords.errors import DataError
from tfrecords.reader import RecordSource

_ROWS = 500


def _bucket(text):
    if not text:
        return ""
    value = int(text)
    return math.floor(math.log(value) ** 2) if value > 2 else value


def _expected(lines, train, *, min_count=1, modulo=0, everything=False, reference=False):
    """Ids and sizes of the 26 columns, one row at a time."""
    ids, sizes = [], []
    for column in range(26):
        values = []
        for line in lines:
            text = line.split("\t")[14 + column]
            if text == "" and not reference:
                values.append(None)
                continue
            value = int(text or "0", 16)
            values.append(value % modulo if modulo else value)
        counted = values if everything or reference else values[:train]
        counts = collections.Counter(counted)
        known: dict = {}
        for value in counted:
            if counts[value] >= min_count and value not in known:
                known[value] = len(known) + (0 if reference else 1)
        column_ids = [known.get(value, 0) for value in values]
        if reference and modulo:
            column_ids = [i % modulo for i in column_ids]
        ids.append(column_ids)
        sizes.append(len(known) + (0 if reference else 1))
    return ids, sizes


def _check(source, parts, lines, train, ids, sizes):
    assert source.rows("train") == train
    assert source.rows("evaluation") == len(lines) - train
    label = np.concatenate([part[1] for part in parts])
    assert label.tolist() == [int(line[0]) for line in lines]
    dense = np.concatenate([part[0]["dense"] for part in parts])
    expected = [
        [math.log1p(max(int(text or 0), 0)) for text in line.split("\t")[1:14]] for line in lines
    ]
    np.testing.assert_array_equal(dense, np.array(expected, np.float32))
    for column in range(26):
        got = np.concatenate([part[0][f"C{column + 1}"] for part in parts])
        assert got.tolist() == ids[column], f"C{column + 1}"
        assert source.schema.categorical[column].vocabulary_size == sizes[column]


@pytest.fixture
def convert_rows(tmp_path, convert_text, read_blocks):
    """Converts lines; returns the source, and the features and label of its splits."""

    def run(lines, output="out", **options):
        source = convert_text(lines, output, **options)
        return source, [read_blocks(tmp_path / output, split) for split in source.info.splits]

    return run


@pytest.mark.parametrize(
    ("options", "oracle"),
    [
        ({}, {}),
        ({"min_count": 4}, {"min_count": 4}),
        ({"max_index_range": 7}, {"modulo": 7}),
        ({"vocabulary": "all", "min_count": 2}, {"everything": True, "min_count": 2}),
        ({"reference": True}, {"reference": True}),
        ({"reference": True, "max_index_range": 7}, {"reference": True, "modulo": 7}),
    ],
)
def test_ids(criteo_lines, convert_rows, monkeypatch, options, oracle):
    # Pieces that end anywhere: the split falls within one.
    monkeypatch.setattr(text_input, "PIECE_BYTES", 5000)
    lines = criteo_lines(_ROWS)
    train = _ROWS - _ROWS // 7
    source, parts = convert_rows(lines, rows_per_record=64, **options)
    _check(source, parts, lines, train, *_expected(lines, train, **oracle))
    out_of_vocabulary = {column.out_of_vocabulary for column in source.schema.categorical}
    assert out_of_vocabulary == ({None} if "reference" in options else {0})


def test_a_data_set_as_training_reads_it(criteo_lines, convert_rows, read_all):
    source, parts = convert_rows(criteo_lines(70), min_count=2, multi_hot=(1, 3) * 13)
    features, label = read_all(source, "train", batch_size=25)
    expected, expected_label = parts[0]
    assert label.tolist() == expected_label.tolist() and len(label) == 60
    assert features.keys() == expected.keys()
    for name in features:
        np.testing.assert_array_equal(features[name], expected[name], name)


def test_evaluation_only_values_are_out_of_vocabulary(criteo_lines, convert_rows):
    lines = criteo_lines(70)
    lines[-1] = "\t".join(lines[-1].split("\t")[:-1] + ["deadbeef"])
    for vocabulary, known in (("train", False), ("all", True)):
        _, (_, (evaluation, _)) = convert_rows(lines, vocabulary=vocabulary)
        assert (evaluation["C26"][-1] > 0) == known


@pytest.mark.parametrize("rows", [7, 8, 13, 14, 100])
def test_the_last_seventh(criteo_lines, convert_text, rows):
    # The reference: divmod(rows, 7), one more row for each of the first `remainder` chunks.
    quotient, remainder = divmod(rows, 7)
    chunks = [quotient + (chunk < remainder) for chunk in range(7)]
    source = convert_text(criteo_lines(rows))
    assert (source.rows("train"), source.rows("evaluation")) == (sum(chunks[:-1]), chunks[-1])


def test_tuning_never_touches_the_evaluation_rows(criteo_lines, convert_rows, convert_text):
    lines = criteo_lines(_ROWS)
    end = _ROWS - _ROWS // 7
    train = end - end // 7
    source, parts = convert_rows(lines, tuning=True)
    _check(source, parts, lines[:end], train, *_expected(lines[:end], train))
    other = [*lines[:end], *criteo_lines(_ROWS - end, seed=9)]
    again = convert_text(other, "again", tuning=True)
    for split in ("train", "evaluation"):
        first, second = source.info.splits[split], again.info.splits[split]
        assert [f.crc32c for f in first.files] == [f.crc32c for f in second.files]


def test_other_splits(criteo_lines, convert_text):
    lines = criteo_lines(50)
    assert list(convert_text(lines, split="none").info.splits) == ["train"]
    assert convert_text(lines, split="0.1").rows("evaluation") == 5
    with pytest.raises(DataError, match="6 rows, too few for --split=last_seventh"):
        convert_text(lines[:6])


def test_bucketized_integers(criteo_lines, convert_rows):
    lines = criteo_lines(_ROWS)
    train = _ROWS - _ROWS // 7
    source, parts = convert_rows(lines, bucketize_dense=True, min_count=3)
    for column in range(13):
        values = [_bucket(line.split("\t")[1 + column]) for line in lines]
        counts = collections.Counter(values[:train])
        known: dict = {}
        for value in values[:train]:
            if counts[value] >= 3:
                known.setdefault(value, len(known) + 1)
        got = np.concatenate([part[f"I{column + 1}_bucket"] for part, _ in parts])
        assert got.tolist() == [known.get(value, 0) for value in values]
        assert source.schema.categorical[26 + column].vocabulary_size == len(known) + 1
        assert -2 in known and "" in known


def test_several_files_gz_and_no_final_newline(
    tmp_path, criteo_lines, convert_text, convert_criteo
):
    lines = criteo_lines(90)
    whole = convert_text(lines)
    (tmp_path / "a").write_text("\n".join(lines[:30]))
    with gzip.open(tmp_path / "b.gz", "wt") as file:
        file.write("\n".join(lines[30:60]))
    (tmp_path / "c").write_text("\r\n".join(lines[60:]) + "\r\n")
    paths = [str(tmp_path / name) for name in ("a", "b.gz", "c")]
    info = convert_criteo(paths, tmp_path / "parts")
    assert info.splits == whole.info.splits


def test_the_same_bytes_twice_and_others_for_other_options(tmp_path, criteo_lines, convert_text):
    lines = criteo_lines(200)

    def content(folder):
        files = (path for path in (tmp_path / folder).rglob("*") if path.is_file())
        return {path.name: path.read_bytes() for path in files}

    for options in ({}, {"shuffle": "total", "seed": 3}):
        convert_text(lines, "one", **options)
        first = content("one")
        convert_text(lines, "one", **options)
        assert content("one") == first
        convert_text(lines, "two", **options)
        assert content("two") == first
        convert_text(lines, "one", min_count=5, **options)
        assert content("one")["train-00000.tfrecord"] != first["train-00000.tfrecord"]
        assert content("one")["dataset.json"] != first["dataset.json"]


def test_dataset_json_says_how(criteo_lines, convert_text):
    source = convert_text(criteo_lines(70), min_count=2)
    how = source.info.how_it_was_made
    assert how["options"]["min_count"] == 2
    assert how["input"][0]["name"] == "input.txt" and how["input"][0]["bytes"] > 0
    assert how["format"]["dense"] == "log(1 + max(x, 0)), 0 where blank"


def test_dataset_json_says_what_was_dropped(tmp_path, criteo_lines, convert_text):
    lines = criteo_lines(500)
    info = convert_text(lines, split="0.2", keep_negatives=0.25, seed=3).info
    assert DatasetInfo.load(str(tmp_path / "out")) == info
    assert info.how_it_was_made["options"]["keep_negatives"] == 0.25
    negatives = sum(line[0] == "0" for line in lines[:400])
    dropped = info.how_it_was_made["negative_rows_dropped"]
    assert info.splits["train"].rows == 400 - dropped
    assert info.splits["train"].label_sum == 400 - negatives
    assert abs(dropped / negatives - 0.75) < 0.08
    assert info.splits["evaluation"].rows == 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_count": 0}, "--min_count must be at least 1, not 0"),
        ({"split": "sometimes"}, "--split must be .* not 'sometimes'"),
        ({"split": "1.5"}, "--split must be .* not '1.5'"),
        ({"split": "none", "tuning": True}, "--tuning .* another --split than none"),
        ({"reference": True, "vocabulary": "train"}, "--vocabulary=train contradicts"),
        ({"reference": True, "vocabulary": "all", "min_count": 2}, "--min_count=2 contradicts"),
        ({"rows_per_record": 0}, "--rows_per_record must be at least 1"),
        ({"shuffle": "some"}, "--shuffle must be none, day or total, not 'some'"),
        ({"keep_negatives": 0.0}, "--keep_negatives .* above 0 and at most 1, not 0.0"),
        ({"keep_negatives": float("nan")}, "--keep_negatives .* not nan"),
        ({"memory_gb": 0.0}, "--memory_gb must be a number above 0, not 0.0"),
        ({"multi_hot": (2, 0)}, "--multi_hot must be mlperf or numbers of at least 1"),
        ({"multi_hot_distribution": "zipf"}, "--multi_hot_distribution must be one of uniform"),
    ],
)
def test_options_that_are_not_allowed(options, message):
    with pytest.raises(DataError, match=message):
        Options(**options)


def test_options_of_the_format_that_are_not_allowed():
    with pytest.raises(DataError, match="--max_index_range must be at least 1, or 0"):
        CriteoFormat(max_index_range=-1)
    with pytest.raises(DataError, match="--bucketize_dense contradicts"):
        CriteoFormat(reference=True, bucketize_dense=True)


def test_progress_says_rows_rate_and_time(tmp_path, criteo_lines, convert_criteo, monkeypatch):
    stream = io.StringIO()
    (tmp_path / "in").write_text("\n".join(criteo_lines(70)))
    # Several pieces: what is read ahead is not reported as done.
    monkeypatch.setattr(text_input, "PIECE_BYTES", 3000)
    convert_criteo([tmp_path / "in"], tmp_path / "out", stream)
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("Parsing: 70 rows, ") and "rows/s" in lines[0]
    assert any(line.startswith("Writing: 70 rows, ") for line in lines)
    assert sorted(os.listdir(tmp_path)) == ["in", "out"]
    assert RecordSource(str(tmp_path / "out")).rows("train") == 60
