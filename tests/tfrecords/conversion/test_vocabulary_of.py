"""New data with the ids of old data."""

import io
import random

import numpy as np
import pytest

from tfrecords.conversion.convert import convert
from tfrecords.conversion.criteo import CriteoFormat
from tfrecords.conversion.description_file import from_toml
from tfrecords.conversion.options import Options
from tfrecords.conversion.tabular import TabularFormat
from tfrecords.dataset_info import DatasetInfo
from tfrecords.errors import DataError
from tfrecords.progress import Progress

_TOML = """
format = "csv"
label = "y"
[categorical]
city = "text"
item = "integer"
small = {kind = "integer", vocabulary_size = 5}
tags = {separator = "|"}
"""


def _rows(seed, items):
    rng = random.Random(seed)
    return [
        (k % 2, rng.choice(["Bern", "Rome", f"only {seed}"]), rng.choice(items), rng.randrange(5),
         "|".join(rng.choices(["a", "b", f"t{seed}"], k=rng.randrange(3))))
        for k in range(60)
    ]  # fmt: skip


@pytest.fixture
def converted(tmp_path):
    def make(name, rows, toml=_TOML, **options):
        path = tmp_path / f"{name}.csv"
        lines = ["y,city,item,small,tags", *(",".join(map(str, row)) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
        output = str(tmp_path / name)
        options = {"split": "none", "on_odd_labels": "accept"} | options
        convert(
            [str(path)],
            output,
            TabularFormat(from_toml(toml, "t.toml")),
            Options(**options),
            Progress(io.StringIO()),
            threads=1,
        )
        return output

    return make


def _first_seen(values, known=(), min_count=1):
    """The values in the order of their ids, from 1 on: what a vocabulary should be."""
    ordered = list(known)
    for value in values:
        if value not in ordered and values.count(value) >= min_count:
            ordered.append(value)
    return ordered


def _columns(rows):
    return {
        "city": [row[1] for row in rows],
        "item": [row[2] for row in rows],
        "tags": [tag for row in rows for tag in row[4].split("|") if row[4]],
    }


@pytest.mark.parametrize("extend", [False, True])
def test_values_have_the_ids_of_the_other_data(converted, read_blocks, extend):
    old, new = _rows(1, range(0, 12)), _rows(2, range(6, 30))
    first = converted("old", old)
    second = converted("new", new, vocabulary_of=first, extend_vocabulary=extend, min_count=2)
    features, _ = read_blocks(second, "train")
    schema = {c.name: c for c in DatasetInfo.load(second).schema.categorical}
    for name, values in _columns(new).items():
        ordered = _first_seen(_columns(old)[name])
        if extend:
            ordered = _first_seen(values, ordered, min_count=2)
        wanted = [ordered.index(value) + 1 if value in ordered else 0 for value in values]
        found = features[name]
        found = sum(found, []) if isinstance(found, list) else found.tolist()
        assert found == wanted, name
        assert schema[name].vocabulary_size == len(ordered) + 1
        assert (0 in wanted) != extend or name == "item"
    assert features["small"].tolist() == [row[3] for row in new]


def test_a_copied_vocabulary_is_the_same_and_an_extended_one_begins_with_it(converted):
    first = converted("old", _rows(1, range(9)))
    infos = [
        DatasetInfo.load(path).vocabularies
        for path in (
            first,
            converted("same", _rows(2, range(20)), vocabulary_of=first),
            converted("more", _rows(2, range(20)), vocabulary_of=first, extend_vocabulary=True),
        )
    ]
    assert infos[0] == infos[1]
    for info in infos[2].values():
        keys = [
            np.load(f"{folder}/{info.path}") for folder in (first, first.replace("old", "more"))
        ]
        assert len(keys[1]) > len(keys[0])
        np.testing.assert_array_equal(keys[1][: len(keys[0])], keys[0])


def test_dataset_json_says_whose_ids_they_are(converted):
    first = converted("old", _rows(1, range(9)))
    made = DatasetInfo.load(converted("new", _rows(2, range(9)), vocabulary_of=first))
    assert made.how_it_was_made["vocabulary_of"] == DatasetInfo.load(first).fingerprint
    assert "vocabulary_of" not in DatasetInfo.load(first).how_it_was_made


def test_vocabularies_that_cannot_be_used(converted, criteo_lines, convert_criteo, tmp_path):
    first = converted("old", _rows(1, range(9)))
    with pytest.raises(DataError, match="has no vocabulary of 'place'; it has city"):
        renamed = _TOML.replace('city = "text"', 'place = {column = "city"}')
        converted("a", _rows(2, range(9)), renamed, vocabulary_of=first)
    with pytest.raises(DataError, match="Feature item is a counted text value here, but a counted"):
        text = _TOML.replace('item = "integer"', 'item = "text"')
        converted("b", _rows(2, range(9)), text, vocabulary_of=first)
    with pytest.raises(DataError, match="no data set folder"):
        converted("c", _rows(2, range(9)), vocabulary_of=str(tmp_path / "none"))
    with pytest.raises(DataError, match="--extend_vocabulary .* name it by --vocabulary_of"):
        Options(extend_vocabulary=True)
    with pytest.raises(DataError, match="--reference counts all values anew"):
        Options(vocabulary_of=first, reference=True)
    (tmp_path / "log").write_text("\n".join(criteo_lines(40)) + "\n")
    convert_criteo([tmp_path / "log"], tmp_path / "reference", reference=True)
    with pytest.raises(
        DataError, match="C1 is a counted hexadecimal value here, but .*, 0 where blank"
    ):
        convert(
            [str(tmp_path / "log")],
            str(tmp_path / "d"),
            CriteoFormat(),
            Options(vocabulary_of=str(tmp_path / "reference")),
            Progress(io.StringIO()),
        )
