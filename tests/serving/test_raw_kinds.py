"""Tables of one's own served from their text: what the conversion of the same rows has made."""

import csv
import io
import itertools
import random

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.errors import UserError
from tf_dlrm.serving.raw_table import RawTable
from tfrecords.conversion.convert import convert
from tfrecords.conversion.description_file import from_toml
from tfrecords.conversion.options import Options
from tfrecords.conversion.tabular import TabularFormat
from tfrecords.dataset_info import DatasetInfo
from tfrecords.progress import Progress

_TOML = """
format = "csv"
null_values = ["", "NA"]
label = "y"
[dense]
price = {transform = "log1p", missing = 2}
age = "none"
[categorical]
city = {kind = "text", min_count = 2}
number = "integer"
hex = "hexadecimal"
bucket = {column = "city", hash_buckets = 10}
number_bucket = {column = "number", kind = "integer", hash_buckets = 7}
small = {kind = "integer", vocabulary_size = 5, missing = 2}
tags = {separator = "|"}
two = {column = "tags", separator = "|", hotness = 2, longer = "cut"}
pair = {kind = "integer", separator = ",", hotness = 2, vocabulary_size = 9}
hour = {column = "time", kind = "datetime", datetime_format = "%y%m%d%H", part = "hour_of_day"}
weekday = {column = "time", kind = "datetime", datetime_format = "%y%m%d%H", part = "weekday"}
"""
_COLUMNS = ("y", "price", "age", "city", "number", "hex", "small", "tags", "pair", "time")


def _rows(count):
    rng = random.Random(5)
    return [
        {
            "y": str(k % 2),
            "price": rng.choice(["", "NA", "-3", "1e3", "7.25", " 4 "]),
            "age": str(k / 4),
            "city": rng.choice(["Bern", 'the "new" one', "a,b", "", "Köln", "NA", f"seldom {k}"]),
            "number": rng.choice(["", "-1", "007", "12345678901", "-9223372036854775807", "0x1F"]),
            "hex": rng.choice(["", "0", "FFffFFff", "12ab34cd", "abc"]),
            "small": rng.choice(["0", "4", "NA", " 3"]),
            "tags": rng.choice(["", "a", "a|b", "b||NA|c", "NA", "a|a|a", "|"]),
            "pair": rng.choice(["0,8", "3,3", " 1,2 "]),
            "time": f"1410{rng.randint(1, 31):02d}{rng.randint(0, 23):02d}",
        }
        for k in range(count)
    ]


def _converted(folder, toml, rows, **options):
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    (folder / "in.csv").write_text(text.getvalue(), encoding="utf-8", newline="")
    data = str(folder / "data")
    convert(
        [str(folder / "in.csv")],
        data,
        TabularFormat(from_toml(toml, "t.toml")),
        Options(split="none", on_odd_labels="accept", **options),
        Progress(io.StringIO()),
        threads=1,
    )
    return DatasetInfo.load(data), data


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Rows, the data set of them, and its RawTable as it is once a SavedModel is loaded."""
    rows = _rows(150)
    info, data = _converted(tmp_path_factory.mktemp("table"), _TOML, rows)
    raw = RawTable(info, data)
    for variable, content in zip(raw.vocabulary, raw.rows(), strict=True):
        variable.assign(content.read(0, content.shape[0]))
    features = tf.function(raw.features, input_signature=[raw.specs])
    features(_fields(rows[:1]))  # traces it
    return rows, data, raw, features


def _fields(rows):
    return {name: tf.constant([row[name] for row in rows]) for name in _COLUMNS[1:]}


def test_features_are_those_of_the_conversion(table, read_blocks):
    rows, data, _, features = table
    wanted, _ = read_blocks(data, "train")
    found = features(_fields(rows))
    assert set(found) == set(wanted)
    for name, values in found.items():
        if isinstance(values, tf.RaggedTensor):
            assert values.to_list() == wanted[name] and name == "tags"
        else:
            np.testing.assert_array_equal(values, wanted[name], name)


def test_values_that_training_never_saw(table):
    rows, _, _, features = table
    row = rows[0] | {"city": "Nowhere", "number": "77", "hex": "77", "tags": "new|a|newer"}
    found = features(_fields([row]))
    assert [found[name].numpy()[0] for name in ("city", "number", "hex")] == [0, 0, 0]
    (ids,) = found["tags"].to_list()
    assert ids[0] == ids[2] == 0 and ids[1] > 0
    first, second = found["two"].numpy()[0].tolist()
    assert first == 0 and second > 0


@pytest.mark.parametrize(
    ("column", "text", "wanted"),
    [
        ("price", "cheap", "a number, or empty"),
        ("age", "", "a number."),
        ("number", "1.5", "a whole number of 64 bits, or empty"),
        ("hex", "xyz", "one to eight hexadecimal digits, or empty"),
        ("small", "5", "an id in [0, 5), or empty"),
        ("time", "14103200", "a date as %y%m%d%H says"),
        ("time", "", "a date as %y%m%d%H says"),
        ("pair", "1,2,3", "2 values"),
        ("pair", "1", "2 values"),
        ("pair", "1,9", "values, each an id in [0, 9), with , between them"),
        ("pair", "", "2 values"),
    ],
)
def test_texts_that_are_no_values(table, column, text, wanted):
    rows, _, _, features = table
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        features(_fields([rows[0], rows[1] | {column: text}, rows[2]]))
    said = str(caught.value)
    assert f"Field {column} of row 1 is {text}, but must be " in said and wanted in said


def test_examples_can_be_scored(table):
    _, _, raw, features = table
    example = raw.example()
    assert set(example) == set(raw.specs)
    for _, value in features({name: tf.constant([text]) for name, text in example.items()}).items():
        assert value.shape[0] == 1


def test_order_of_checks_is_that_of_rows_and_fields(table):
    """The first bad field is named, whichever kind it is."""
    rows, _, _, features = table
    for first, second in itertools.permutations([("price", "x"), ("pair", "1")]):
        fields = _fields([rows[0] | dict([first]), rows[1] | dict([second])])
        with pytest.raises(tf.errors.InvalidArgumentError, match="Field price of row"):
            features(fields)


def test_what_cannot_be_served_as_text(tmp_path):
    rows = [{"y": "1", "time": "Oct 21"}, {"y": "0", "time": "Nov 03"}]
    base = 'format = "csv"\nother_columns = "ignore"\nlabel = "y"\n[categorical]\n'
    month = base + 'm = {column = "time", kind = "datetime", datetime_format = "%b %d", '
    (tmp_path / "a").mkdir()
    info, data = _converted(tmp_path / "a", month + 'part = "month"}', rows)
    with pytest.raises(
        UserError, match=r"cannot serve the column 'time'. Dates written as '%b %d'"
    ):
        RawTable(info, data)
    (tmp_path / "b").mkdir()
    info, data = _converted(tmp_path / "b", base + 'time = "text"', rows, multi_hot=(3,))
    with pytest.raises(UserError, match="converted with --multi_hot, so rows have further ids"):
        RawTable(info, data)
