"""What --describe guesses: labels that differ, no leaks, ids and dates as what they are."""

import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tfrecords.conversion.column_description import LabelColumn
from tfrecords.conversion.description_file import from_toml
from tfrecords.conversion.description_guess import guess
from tfrecords.errors import DataError


@pytest.fixture
def guessed(tmp_path):
    """Writes columns as a table and returns the description that is guessed of it."""

    def run(columns, form="csv", label=None):
        path = tmp_path / f"in.{form}"
        if form == "parquet":
            pq.write_table(pa.table(columns), path)
        else:
            rows = zip(*columns.values(), strict=True)
            lines = [",".join(columns), *(",".join(map(str, row)) for row in rows)]
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        text = guess(str(path), label)
        return from_toml(text, "guess"), text

    return run


def _kinds(description):
    found = {column.name: column.transform for column in description.dense}
    return found | {column.name: column.kind for column in description.categorical}


def _amounts(rows=200):
    return [row * 7919 % 1009 / 10 for row in range(rows)]


@pytest.mark.parametrize(
    ("values", "threshold"),
    [
        ([-1, 1], 1.0),
        ([1, 2], 2.0),
        ([2, 1, 1, 1], 2.0),
        ([1, 1, 1, 1, 3, 5], 3.0),
        ([1, 2, 3, 4, 5], 3.0),
        ([5.0, 5.0, 1.0], 5.0),
    ],
)
def test_a_threshold_leaves_labels_of_both_kinds(guessed, values, threshold):
    labels = [values[row % len(values)] for row in range(120)]
    description, _ = guessed({"label": labels, "x": _amounts(120)})
    assert description.label == LabelColumn("label", positive_from=threshold)


def test_labels_of_two_texts(guessed):
    labels = [" >50K" if row % 4 == 0 else " <=50K" for row in range(80)]
    description, _ = guessed({" classification": labels, "x": _amounts(80)})
    assert description.label == LabelColumn(
        " classification", positive_values=(" >50K",), negative_values=(" <=50K",)
    )
    labels = [" Yes" if row % 4 else " No" for row in range(80)]
    description, _ = guessed({"bought": labels, "x": _amounts(80)}, label="bought")
    assert description.label.positive_values == (" Yes",)


def test_labels_that_are_doubles(guessed):
    columns = {"x": _amounts(80), "seen": [0.0] * 80, "flag": [float(n % 2) for n in range(80)]}
    description, text = guessed(columns, "parquet")
    # A column of zeros alone is no label.
    assert description.label == LabelColumn("flag")
    assert description.ignore == ("seen",) and "'seen' is ignored: every value is '0.0'" in text


def test_the_column_that_is_named_is_the_label(guessed):
    columns = {"click": [0, 1] * 40, "buy": [0, 0, 1, 1] * 20, "x": _amounts(80)}
    assert guessed(columns)[0].label.column == "click"
    assert guessed(columns, label="buy")[0].label.column == "buy"
    with pytest.raises(DataError, match="has no column 'sold' of single values; it has click, buy"):
        guessed(columns, label="sold")
    columns["why"] = ["a", "b", "c", "d"] * 20
    with pytest.raises(DataError, match="'why' of .* cannot be a label: it holds 'a', 'b', 'c', "):
        guessed(columns, label="why")


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize(("leaks", "label"), [("filled", 1), ("missing", 0), ("filled", 0)])
def test_a_column_that_gives_the_label_away_is_ignored(guessed, form, leaks, label):
    labels = [int(row % 9 == 0) for row in range(200)]
    there = [y == label if leaks == "filled" else y != label for y in labels]
    nothing = None if form == "parquet" else ""
    times = [f"2017-11-07 {n % 24:02d}:00:00" if t else nothing for n, t in enumerate(there)]
    # There for two labels in three: for chance that is far too often as well.
    part = [f"v{n % 5}" if t and n % 3 else nothing for n, t in enumerate(there)]
    copy = ["bought" if y else "left" for y in labels]
    holes = [nothing if n % 7 == 0 else f"v{n % 5}" for n in range(200)]
    columns = {"is_click": labels, "attributed_time": times, "copy": copy, "holes": holes}
    if label == 1 and leaks == "filled":
        columns["part"] = part
    description, text = guessed(columns, form)
    say = "filled" if leaks == "filled" or label == 0 else "missing"
    assert set(description.ignore) == set(columns) - {"is_click", "holes"}
    assert f"'attributed_time' is ignored: it is {say} only where the label is" in text
    assert "'copy' is ignored: its two values are those of the label" in text
    assert _kinds(description) == {"holes": "text"}


def test_ids_are_categorical(guessed):
    names = ["user", "itemId", "ip", "app", "CHANNEL", "device_os", "ad-id", "C14", "movie_id_2"]
    columns = {"label": [0, 1] * 100}
    columns |= {name: [(row // 2) * 7919 % 99991 for row in range(200)] for name in names}
    columns |= {name: columns["ip"] for name in ("price", "user_age", "item_count")}
    description, _ = guessed(columns)
    kinds = _kinds(description)
    assert {name: kinds[name] for name in names} == dict.fromkeys(names, "integer")
    assert {kinds[name] for name in ("price", "user_age", "item_count")} == {"log1p"}


def test_numbers_of_rows_are_ignored(guessed):
    rows = range(200)
    columns = {
        "": rows,
        "label": [0, 1] * 100,
        "id": [row * 7919 % 211 for row in rows],
        "Unnamed: 0": rows,
        "from_one": [row + 1 for row in rows],
        "random": [row * 7919 % 211 for row in rows],
    }
    description, text = guessed(columns)
    assert description.ignore == ("", "id", "Unnamed: 0", "from_one")
    assert "'from_one' is ignored: it numbers the rows" in text
    assert _kinds(description) == {"random": "log1p"}


@pytest.mark.parametrize(
    ("written", "how"),
    [
        (lambda t: int(t.timestamp()), "unix"),
        (lambda t: f"{t:%Y-%m-%d} {t.hour}:{t.minute:02d}", "%Y-%m-%d %H:%M"),
        (lambda t: f"{t:%m/%d/%Y %H:%M:%S}", "%m/%d/%Y %H:%M:%S"),
        (lambda t: f"{t:%y%m%d%H}", "%y%m%d%H"),
        (lambda t: f"{t:%Y%m%d%H}", "%Y%m%d%H"),
        (lambda t: f"{t:%Y-%m-%dT%H:%M:%S}", "iso"),
    ],
)
def test_dates_are_dates(guessed, written, how):
    start = datetime.datetime(2014, 10, 19, 23, tzinfo=datetime.timezone.utc)
    times = [start + datetime.timedelta(minutes=n * 7919 % 30000) for n in range(200)]
    columns = {"label": [0, 1] * 100, "event_time": [written(time) for time in times]}
    description, _ = guessed(columns)
    assert [(c.name, c.part, c.datetime_format) for c in description.categorical] == [
        ("event_time_hour_of_day", "hour_of_day", how),
        ("event_time_weekday", "weekday", how),
    ]
    assert not description.dense


def test_days_have_no_hour_and_milliseconds_are_no_amounts(guessed):
    days = [f"2014-10-{1 + n * 7 % 29:02d}" for n in range(200)]
    milliseconds = [1_413_763_200_000 + n * 7919 for n in range(200)]
    columns = {"label": [0, 1] * 100, "day": days, "ms": milliseconds, "x": _amounts()}
    description, text = guessed(columns)
    assert [c.part for c in description.categorical] == ["weekday"]
    assert description.ignore == ("ms",)
    assert "'ms' is ignored: it holds milliseconds since 1970" in text


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        (",label,x", None),
        ("click,101,121", None),
        ("label,x,", None),
        ("1,0.5,2", ("column_1", "column_2", "column_3")),
        ("1,,2", ("column_1", "column_2", "column_3")),
        ("1,NA,2", ("column_1", "column_2", "column_3")),
    ],
)
def test_headers(tmp_path, header, columns):
    rows = [f"{n},{n % 2},{n * 7919 % 101 / 10}" for n in range(60)]
    if header.startswith(("click", "label", "1")):
        rows = [f"{n % 2},{n * 7919 % 101 / 10},{n}" for n in range(60)]
    (tmp_path / "in.csv").write_text("\n".join([header, *rows]) + "\n")
    description = from_toml(guess(str(tmp_path / "in.csv")), "guess")
    assert description.columns == (columns or ())
    if columns is None:
        assert description.label.column in ("label", "click")


def test_blanks_around_values_and_names(guessed):
    columns = {
        "label": [" 0", " 1"] * 60,
        " age": [f" {n * 7919 % 97}.5" for n in range(120)],
        " hours": [" NA" if n % 7 == 0 else f" {n * 31 % 800}" for n in range(120)],
        "age": [f"{n % 7}" for n in range(120)],
    }
    description, _ = guessed(columns)
    assert description.label == LabelColumn("label")
    assert [(c.name, c.column) for c in description.dense] == [("age", " age"), ("hours", " hours")]
    assert [(c.name, c.column) for c in description.categorical] == [("age_2", "age")]
    assert description.null_values == ("", " NA")


def test_text_of_strange_line_ends(guessed):
    texts = ["a\u2028b", "c\u0085d", "e\x0bf", "g\x0ch", "i\x1cj"]
    columns = {"label": [0, 1] * 50, "title": [texts[n * 7 % 5] for n in range(100)]}
    description, text = guessed(columns)
    assert "first 100 rows" in text and "5 different values" in text
    assert _kinds(description) == {"title": "text"}


def test_the_flag(tmp_path, run_command):
    (tmp_path / "in.csv").write_text("a,b\n" + "".join(f"{n % 2},{n % 3 % 2}\n" for n in range(90)))
    done = run_command("tfrecords.convert", f"--describe={tmp_path / 'in.csv'}", "--label=b")
    assert done.code == 0 and '[label]\ncolumn = "b"' in done.out
    flags = ["--label=b", "--schema=avazu", "--input=x", f"--output_dir={tmp_path / 'out'}"]
    done = run_command("tfrecords.convert", *flags)
    assert done.code == 1 and "--label is for --describe" in done.err


def test_a_field_longer_than_pythons_limit(guessed):
    description, _ = guessed({"y": [0, 1, 0, 1], "x": [1, 2, 3, 4], "text": ["a" * 200_000] * 4})
    assert description.label == LabelColumn("y")


def test_a_hundred_thousand_columns_are_refused_at_once(tmp_path):
    path = tmp_path / "in.csv"
    names = [f"c{number}" for number in range(100_000)]
    path.write_text(f"{','.join(names)}\n{','.join(['7'] * len(names))}\n")
    with pytest.raises(DataError, match="No column of .* looks like a label") as caught:
        guess(str(path))
    assert len(str(caught.value)) < 1000
    path.write_text(f"{','.join([*names[:-1], 'c5'])}\n{','.join(['7'] * len(names))}\n")
    with pytest.raises(DataError, match="two columns called 'c5'"):
        guess(str(path))
