"""Splits of rows that are not consecutive, against a plain reading of the rows."""

import csv
import datetime
import io
import random

import pytest

import tfrecords
from tests.tfrecords.conversion.test_engine import splitmix
from tfrecords import block
from tfrecords.conversion import memory
from tfrecords.conversion.convert import convert
from tfrecords.conversion.description_file import from_toml
from tfrecords.conversion.options import Options
from tfrecords.conversion.tabular import TabularFormat
from tfrecords.dataset_info import DatasetInfo
from tfrecords.errors import DataError
from tfrecords.progress import Progress
from tfrecords.record_format import read_records

_TOML = """
format = "csv"
time = "when"
group = "user"
label = "y"
[dense]
number = "none"
[categorical]
item = "text"
"""


@pytest.fixture
def rows():
    rng = random.Random(5)
    first = datetime.datetime(2026, 1, 1)
    return [
        {
            "y": rng.randrange(2),
            "number": number,
            "user": f"u{rng.randrange(40)}",
            "item": f"i{rng.randrange(50)}",
            "when": (first + datetime.timedelta(days=rng.randrange(60))).isoformat(" "),
        }
        for number in range(600)
    ]


@pytest.fixture
def split_up(tmp_path, monkeypatch):
    """Converts rows in pieces of some; returns for each split the number of each row and its id."""

    def convert_rows(rows, toml=_TOML, **options):
        path, output = tmp_path / "t.csv", str(tmp_path / "out")
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        format = TabularFormat(from_toml(toml, "t.toml"), piece_bytes=1500)
        convert([str(path)], output, format, Options(**options), Progress(io.StringIO()), 2)
        info, found = DatasetInfo.load(output), {}
        for name, split in info.splits.items():
            found[name] = []
            for file in split.files:
                with open(f"{output}/{file.path}", "rb") as stream:
                    for _, data in read_records(stream):
                        columns = block.decode(info.schema, data)
                        numbers = columns["dense"][:, 0].astype(int).tolist()
                        found[name] += zip(numbers, columns["item"].tolist(), strict=True)
        return found

    return convert_rows


def _numbers(found):
    return {name: [number for number, _ in of] for name, of in found.items()}


def _drawn(purpose, number, seed):
    return (splitmix(splitmix(seed, purpose), number) >> 11) * 2.0**-53


@pytest.mark.parametrize("vocabulary", ["train", "all"])
def test_a_random_share_is_drawn_by_seed_and_number(split_up, rows, vocabulary):
    found = split_up(rows, split="random:0.2,0.1", seed=7, vocabulary=vocabulary)
    places = [_drawn(0x73706C74, number, 7) for number in range(600)]
    expected = {
        "train": [n for n, place in enumerate(places) if place < 0.7],
        "evaluation": [n for n, place in enumerate(places) if 0.7 <= place < 0.9],
        "test": [n for n, place in enumerate(places) if place >= 0.9],
    }
    assert _numbers(found) == expected
    # Ids are given by the first occurrence in the rows that count.
    counted = expected["train"] if vocabulary == "train" else range(600)
    ids = {}
    for number in counted:
        ids.setdefault(rows[number]["item"], len(ids) + 1)
    for of in found.values():
        assert all(id == ids.get(rows[number]["item"], 0) for number, id in of)


def test_all_rows_of_a_group_are_in_one_split(split_up, rows):
    found = _numbers(split_up(rows, split="group:0.3", seed=3))
    users = {name: {rows[number]["user"] for number in of} for name, of in found.items()}
    assert users["train"].isdisjoint(users["evaluation"])
    assert sorted(found["train"] + found["evaluation"]) == list(range(600))
    assert 4 <= len(users["evaluation"]) <= 20  # 12 expected
    assert _numbers(split_up(rows, split="group:0.3", seed=4)) != found


def test_the_latest_rows_are_held_out(split_up, rows):
    found = _numbers(split_up(rows, split="time:0.25,0.1"))
    times = [row["when"] for row in rows]
    ordered = sorted(times)
    evaluation, test = ordered[600 - 210], ordered[600 - 60]
    assert found == {
        "train": [n for n, time in enumerate(times) if time < evaluation],
        "evaluation": [n for n, time in enumerate(times) if evaluation <= time < test],
        "test": [n for n, time in enumerate(times) if time >= test],
    }


@pytest.mark.parametrize("unix", [False, True])
def test_a_time_divides_the_rows(split_up, rows, unix):
    times = [datetime.datetime.fromisoformat(row["when"]) for row in rows]
    if unix:  # numbers are seconds since 1970 beside dates
        for row, time in zip(rows, times, strict=True):
            row["when"] = int(time.replace(tzinfo=datetime.timezone.utc).timestamp())
    found = _numbers(split_up(rows, split="time_from:2026-02-01,2026-02-20T00:00:00Z"))
    first, second = datetime.datetime(2026, 2, 1), datetime.datetime(2026, 2, 20)
    assert found == {
        "train": [n for n, time in enumerate(times) if time < first],
        "evaluation": [n for n, time in enumerate(times) if first <= time < second],
        "test": [n for n, time in enumerate(times) if time >= second],
    }


def test_only_training_rows_are_sampled_and_shuffled(split_up, rows, monkeypatch):
    whole = _numbers(split_up(rows, split="random:0.2", seed=1))
    options = {"split": "random:0.2", "seed": 1, "keep_negatives": 0.5}
    found = _numbers(split_up(rows, **options))
    assert found["evaluation"] == whole["evaluation"]
    assert found["train"] == [
        n for n in whole["train"] if rows[n]["y"] or _drawn(0x6E656761, n, 1) < 0.5
    ]
    monkeypatch.setattr(memory.Memory, "bucket_bytes", 1000)
    shuffled = _numbers(split_up(rows, shuffle="total", **options))
    assert shuffled["evaluation"] == found["evaluation"]
    assert sorted(shuffled["train"]) == found["train"] != shuffled["train"]


def test_a_table_in_memory_is_split_alike(split_up, rows, tmp_path):
    import pyarrow as pa

    found = _numbers(split_up(rows, split="time:0.25"))
    table = pa.table({name: [row[name] for row in rows] for name in rows[0]})
    when = table["when"].cast(pa.timestamp("us"))
    table = table.set_column(table.column_names.index("when"), "when", when)
    description = from_toml(_TOML, "t.toml")
    info = tfrecords.write(table, description, str(tmp_path / "w"), split="time:0.25")
    assert {name: split.rows for name, split in info.splits.items()} == {
        name: len(of) for name, of in found.items()
    }


@pytest.mark.parametrize(
    ("split", "toml", "message"),
    [
        ("random:1", _TOML, "needs one or two shares"),
        ("random:", _TOML, "needs one or two shares"),
        ("group:0.6,0.4", _TOML, "together below 1"),
        ("time_from:2026-02-01,2026-01-01", _TOML, "two ascending ones"),
        ("time_from:yesterday", _TOML, "one number or date"),
        ("time:0.1", _TOML.replace('time = "when"\n', ""), "needs time = the name of a column"),
        ("group:0.1", _TOML.replace('group = "user"\n', ""), "needs group = the name of a"),
        ("time_from:2030-01-01", _TOML, "leaves the split 'evaluation' without a row"),
        ("time_from:2020-01-01", _TOML, "leaves the split 'train' without a row"),
        ("time:0.1", _TOML.replace('"when"', '"item"'), "column 'item' is 'i"),
    ],
)
def test_other_splits_are_refused(split_up, rows, split, toml, message):
    if 'time = "when"' not in toml or 'group = "user"' not in toml:
        toml = 'other_columns = "ignore"\n' + toml
    with pytest.raises(DataError, match=message):
        split_up(rows, toml=toml, split=split)


@pytest.mark.parametrize("option", [{"tuning": True}, {"reference": True}])
def test_splits_of_consecutive_rows_are_wanted_elsewhere(option):
    with pytest.raises(DataError, match="random:0.1|another --split"):
        Options(split="random:0.1", **option)
