"""Conversions by other descriptions mean other things, other files of one description do not."""

import io
import json

import pytest

from tfrecords.conversion.convert import convert
from tfrecords.conversion.criteo import CriteoFormat
from tfrecords.conversion.description_file import from_toml
from tfrecords.conversion.how_it_was_made import how_it_was_made
from tfrecords.conversion.meanings import LABEL, Meaning, feature, of_data_set, of_table
from tfrecords.conversion.multi_hot import MLPERF
from tfrecords.conversion.options import Options
from tfrecords.conversion.tabular import TabularFormat
from tfrecords.dataset_info import DatasetInfo
from tfrecords.errors import DataError
from tfrecords.progress import Progress

_TOML = """
format = {format}
null_values = {nulls}
[label]
column = "click"
{label}
[dense]
age = {age}
[categorical]
city = {city}
slot = {slot}
"""
_PLAIN = {
    "format": '"csv"',
    "nulls": '["", "NA"]',
    "label": "",
    "age": '"log1p"',
    "city": '{kind = "text", hash_buckets = 24}',
    "slot": '{kind = "integer", vocabulary_size = 24}',
}


def _table(**changes):
    return from_toml(_TOML.format(**_PLAIN | changes), "t.toml")


def _made(format, options=None, **changes):
    """What dataset.json says, as a program reads it."""
    counts = {"rows_read": 7, "rows_left_out_for_tuning": 0, "negative_rows_dropped": 0}
    made = how_it_was_made(
        format,
        options or Options(),
        [{"name": "day_0.csv", "bytes": 99}],
        **counts | {"bad_rows_skipped": {}} | changes,
    )
    return json.loads(json.dumps(made))


def _differ(ours, theirs):
    """The columns that contradict each other, either way round."""
    assert ours and ours.keys() == theirs.keys()
    differ = {name for name in ours if ours[name].contradicts(theirs[name])}
    assert differ == {name for name in ours if theirs[name].contradicts(ours[name])}
    return differ


def _date(written, part="month"):
    return f'{{kind = "datetime", datetime_format = "{written}", part = "{part}"}}'


@pytest.mark.parametrize(
    ("ours", "theirs", "name"),
    [
        ({}, {"age": '"none"'}, "age"),
        ({}, {"age": '{transform = "log1p", missing = 0}'}, "age"),
        ({"age": "{missing = -1}"}, {"age": "{missing = 0}"}, "age"),
        ({"age": "{missing = 0.1}"}, {"age": "{missing = 0.10000000000000002}"}, "age"),
        ({}, {"city": '{kind = "integer", hash_buckets = 24}'}, "city"),
        ({}, {"city": '{kind = "integer", vocabulary_size = 24}'}, "city"),
        ({"city": '"integer"'}, {"city": '"hexadecimal"'}, "city"),
        ({}, {"nulls": '[""]'}, "city"),
        ({"slot": _date("%y%m%d%H", "hour_of_day")}, {}, "slot"),
        ({"slot": _date("%H:%M", "hour_of_day")}, {"slot": _date("%M:%H", "hour_of_day")}, "slot"),
        ({"slot": _date("%d/%m/%Y")}, {"slot": _date("%m/%d/%Y")}, "slot"),
        ({"slot": _date("%d/%m/%Y", "weekday")}, {"slot": _date("%m/%d/%Y", "weekday")}, "slot"),
        (
            {"slot": '{kind = "integer", vocabulary_size = 24, missing = 3}'},
            {"slot": '{kind = "integer", vocabulary_size = 24, missing = 4}'},
            "slot",
        ),
        ({}, {"label": "positive_from = 1"}, None),
        ({"label": "positive_from = 4"}, {"label": "positive_from = 3.5"}, None),
        ({"label": 'positive_values = ["a"]'}, {"label": 'positive_values = ["b"]'}, None),
        ({"label": 'positive_values = ["a"]'}, {"label": 'positive_values = ["a", "b"]'}, None),
        (
            {"label": 'positive_values = ["a"]'},
            {"label": 'positive_values = ["a"]\nnegative_values = ["b"]'},
            None,
        ),
    ],
)
def test_what_a_description_makes_of_a_value_is_its_meaning(ours, theirs, name):
    found = [of_data_set(_made(TabularFormat(_table(**part)))) for part in (ours, theirs)]
    assert _differ(*found) == {LABEL if name is None else feature(name)}
    assert found[0] == of_table(_table(**ours))  # as Parquet files have it that are read directly


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {"format": '"parquet"'}),
        ({}, {"nulls": '["NA", "", "NA"]'}),
        ({"age": '{transform = "log1p", missing = 0}'}, {"age": '{missing=-2,transform="log1p"}'}),
        ({"age": "{missing = -0.0}"}, {"age": "{missing = 0}"}),
        ({"city": '{min_count = 2, separator = "|"}'}, {"city": '{min_count = 9, separator="|"}'}),
        (
            {"label": 'positive_values = ["b", "a"]'},
            {"label": 'positive_values = ["a", "b"]'},
        ),
        # What the one writes is no date to the other.
        ({"slot": _date("%d/%m/%Y")}, {"slot": _date("%Y-%m-%d")}),
        ({"slot": _date("%d/%m/%Y")}, {"slot": _date("iso")}),
        ({"slot": _date("unix")}, {"slot": _date("iso")}),
    ],
)
def test_what_is_written_or_chosen_otherwise_means_the_same(ours, theirs):
    found = [of_data_set(_made(TabularFormat(_table(**part)))) for part in (ours, theirs)]
    assert _differ(*found) == set()


def test_files_rows_splits_and_seeds_have_no_part_in_it():
    tables = [_made(TabularFormat(_table(), "t"))]
    options = Options(split="0.3", shuffle="total", seed=5, keep_negatives=0.5, rows_per_record=8)
    tables.append(
        _made(TabularFormat(_table(), "u"), options, rows_read=9, bad_rows_skipped={"x": 1})
    )
    tables[1]["input"] = [{"name": "day_1.csv", "bytes": 98}]
    assert of_data_set(tables[0]) == of_data_set(tables[1]) != {}


@pytest.mark.parametrize(
    ("ours", "theirs", "differ"),
    [
        ({}, {"name": "terabyte"}, 0),
        ({"max_index_range": 1 << 32}, {}, 0),  # which no value reaches
        ({"max_index_range": 100}, {}, 26),
        ({"max_index_range": 100}, {"max_index_range": 101}, 26),
        ({"reference": True}, {}, 26),
        ({"bucketize_dense": True}, {"bucketize_dense": True, "max_index_range": 9}, 26),
    ],
)
def test_criteo(ours, theirs, differ):
    found = [of_data_set(_made(CriteoFormat(**part))) for part in (ours, theirs)]
    assert len(_differ(*found)) == differ
    assert found[0][feature("I3")].words == "log(1 + max(x, 0)), 0 where missing"
    assert len(found[0]) == 1 + 39 + 13 * ours.get("bucketize_dense", False)


def test_criteo_as_a_table_means_the_same():
    lines = ['format = "tsv"', 'label = "label"', "[dense]"]
    lines += [f'I{k} = {{transform = "log1p", missing = 0}}' for k in range(1, 14)]
    lines += ["[categorical]", *(f'C{k} = "hexadecimal"' for k in range(1, 27))]
    table = of_table(from_toml("\n".join(lines), "t.toml"))
    assert _differ(table, of_data_set(_made(CriteoFormat()))) == set()


@pytest.mark.parametrize(
    ("changes", "differ"),
    [
        ({}, 0),
        ({"seed": 1}, 15),
        ({"multi_hot_distribution": "pareto"}, 15),
        ({"multi_hot": ()}, 15),
    ],
)
def test_ids_that_were_drawn_are_those_of_one_seed(changes, differ):
    options = {"multi_hot": MLPERF}
    assert sum(ids > 1 for ids in MLPERF) == 15
    found = [
        of_data_set(_made(CriteoFormat(), Options(**part))) for part in (options, options | changes)
    ]
    assert len(_differ(*found)) == differ
    # Without any, a seed is the order of rows alone.
    found = [of_data_set(_made(CriteoFormat(), Options(seed=seed))) for seed in (0, 1)]
    assert _differ(*found) == set()


def test_a_conversion_says_it(tmp_path):
    (tmp_path / "in.csv").write_text("click,age,city,slot\n" + "1,2,a,3\n0,4,b,5\n" * 20)
    format = TabularFormat(_table())
    convert(
        [str(tmp_path / "in.csv")],
        str(tmp_path / "out"),
        format,
        Options(),
        Progress(io.StringIO()),
    )
    found = of_data_set(DatasetInfo.load(str(tmp_path / "out")).how_it_was_made)
    assert found[feature("age")] == Meaning("log(1 + max(x, 0))", "age")
    assert found[feature("slot")] == Meaning("an id as it stands", "slot")
    assert found[LABEL] == Meaning("the number as it stands", "click")


def test_the_ratings_command_says_it():
    made = {"source": "tfrecords.leave_one_out", "columns": ["u", "i", "t"], "seed": 0}
    found = of_data_set(made)
    assert found[feature("user")].column == "u" and found[feature("item")].column == "i"
    assert of_data_set(made | {"seed": 1, "passes": 3}) == found


_WHOLE = _made(TabularFormat(_table()), Options(multi_hot=(2, 3)))


@pytest.mark.parametrize(
    "made",
    [None, {}, [], 3, {"source": "tfrecords.random"}, {"source": "tfrecords.leave_one_out"}]
    + [{**_WHOLE, "format": wrong} for wrong in (None, 3, [], {}, {"description": 3})]
    + [{**_WHOLE, "format": {"description": 'format = "csv"'}}]
    + [{**_WHOLE, "options": wrong} for wrong in (None, [], {"multi_hot": 3})]
    + [{**_WHOLE, "options": {"multi_hot": wrong}} for wrong in ([2, 2], ["x"], [None])],
)
def test_what_is_not_understood_says_nothing(made):
    assert of_data_set(_WHOLE)
    assert of_data_set(made) == {}


@pytest.mark.parametrize("written", ["%", "%d%d", "\ud800", "", "x" * 9])
def test_formats_of_dates_that_are_none_contradict_nothing(written):
    date = Meaning("the month of a date", "d", "%d/%m/%Y", "month")
    assert (
        _differ({"d": date}, {"d": Meaning("the month of a date", "d", written, "month")}) == set()
    )


@pytest.mark.parametrize("wrong", [None, 3, ["x"]])
def test_a_meaning_is_of_texts(wrong):
    with pytest.raises(DataError, match=r"The words of a meaning must be a text, not "):
        Meaning(wrong)
