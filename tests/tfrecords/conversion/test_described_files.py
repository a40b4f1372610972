"""Files as they are published, converted with the description that --describe prints of them."""

import gzip
import io

import numpy as np
import pyarrow as pa
import pytest

from tfrecords.conversion.convert import convert
from tfrecords.conversion.description_file import from_toml
from tfrecords.conversion.description_guess import guess
from tfrecords.conversion.options import Options
from tfrecords.conversion.tabular import TabularFormat
from tfrecords.errors import DataError
from tfrecords.hashing import hash_numbers
from tfrecords.kinds.text import fingerprints
from tfrecords.progress import Progress


@pytest.fixture
def described(tmp_path, read_blocks):
    """Writes lines to a file, converts it as it is described; returns what is in the data set.

    The description; and features and label in the order of the lines, where the ids of counted
    values are replaced by numbers in the order of their first occurrence.
    """

    def run(name, lines, label=None):
        path = tmp_path / name
        text = ("\n".join(lines) + "\n").encode()
        path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
        toml = guess(str(path), label)
        description = from_toml(toml, "guess")
        options = Options(split="none")
        convert(
            [str(path)],
            str(tmp_path / "out"),
            TabularFormat(description),
            options,
            Progress(io.StringIO()),
        )
        features, labels = read_blocks(tmp_path / "out", "train")
        return description, toml, features, labels.tolist()

    return run


def counted(values):
    """The ids of values by first occurrence; 0 is out of vocabulary."""
    ids = {}
    return [ids.setdefault(value, len(ids) + 1) for value in values]


def drawn(seed, rows, count):
    """Some numbers below `count` that look random, the same ones each time."""
    return [int(n) for n in hash_numbers(seed, np.arange(rows)) % np.uint64(count)]


def hours(times):
    return [time % 86_400 // 3600 for time in times]


def weekdays(times):
    return [(time // 86_400 + 3) % 7 for time in times]


@pytest.mark.parametrize(
    ("name", "delimiter"), [("u.data", "\t"), ("ratings.dat", "::"), ("ratings.dat.gz", "::")]
)
def test_ratings_as_movielens_publishes_them(described, name, delimiter):
    rows = 300
    users, items = drawn(1, rows, 40), drawn(2, rows, 900)
    ratings = [1 + n for n in drawn(3, rows, 5)]
    times = [874_724_710 + n for n in drawn(4, rows, 18_000_000)]
    lines = [
        delimiter.join(map(str, row)) for row in zip(users, items, ratings, times, strict=True)
    ]
    description, toml, features, label = described(name, lines)
    assert description.columns == ("user", "item", "rating", "timestamp")
    assert (
        "taken for those of MovieLens's ratings" in toml and f"{delimiter!r} stands between" in toml
    )
    assert "The label is 'rating', by its name. It is 1 from 3 on." in toml
    assert label == [float(rating >= 3) for rating in ratings]
    assert features["user"].tolist() == counted(users)
    assert features["item"].tolist() == counted(items)
    assert features["timestamp_hour_of_day"].tolist() == hours(times)
    assert features["timestamp_weekday"].tolist() == weekdays(times)


def test_adult(described):
    rows = 400
    ages = [17 + n for n in drawn(1, rows, 70)]
    work = [["Private", "?", "State-gov"][n] for n in drawn(2, rows, 3)]
    weight = [12_285 + n for n in drawn(3, rows, 1_400_000)]
    income = [[">50K", "<=50K", "<=50K"][n] for n in drawn(4, rows, 3)]
    lines = [", ".join(map(str, row)) for row in zip(ages, work, weight, income, strict=True)]
    with pytest.raises(DataError, match="No column of .* looks like a label, .* --label=COLUMN"):
        described("adult.data", lines)
    description, toml, features, label = described("adult.data", lines, "column_4")
    assert description.strip
    assert "It is 1 where it holds '>50K', and 0 where '<=50K'." in toml
    assert label == [float(value == ">50K") for value in income]
    assert features["column_2"].tolist() == counted(work)
    expected = np.log1p(weight).astype(np.float32)
    assert features["dense"][:, 1].tolist() == expected.tolist()
    assert features["dense"][:, 0].tolist() == [float(age) for age in ages]


def test_a_table_of_pandas_with_blanks_and_quotes(described):
    rows = 200
    titles = [['"a , b"', '"c ""d"""', "e"][n] for n in drawn(1, rows, 3)]
    clicks = [f"{n}.0" for n in drawn(2, rows, 2)]
    lines = [
        f"{n}, {click}, {title}, {n % 3} y"
        for n, click, title in zip(range(rows), clicks, titles, strict=True)
    ]
    description, _, features, label = described("in.csv", [", clicked, title, words", *lines])
    assert description.ignore == ("",)
    assert label == [float(click) for click in clicks]
    assert features["title"].tolist() == counted(titles)
    assert features["words"].tolist() == counted([f"{n % 3} y" for n in range(rows)])


@pytest.mark.parametrize("delimiter", ["^", "|", ";", "\t"])
def test_delimiters_and_several_values_in_a_field(described, delimiter):
    rows = 300
    within = "," if delimiter != "," else "|"
    bags = [[f"t{n}" for n in drawn(row, 1 + row % 3, 12)] for row in range(rows)]
    labels, amounts = drawn(1, rows, 2), [n / 7 for n in drawn(2, rows, 600)]
    head = delimiter.join(("bought", "amount", "tags"))
    lines = [
        delimiter.join((str(y), repr(x), within.join(bag)))
        for y, x, bag in zip(labels, amounts, bags, strict=True)
    ]
    _, toml, features, label = described("in.txt", [head, *lines], "bought")
    assert f"several values with {within!r} between them" in toml
    assert label == labels
    assert features["dense"][:, 0].tolist() == [float(np.float32(x)) for x in amounts]
    flat = iter(counted([tag for bag in bags for tag in bag]))
    assert features["tags"] == [[next(flat) for _ in bag] for bag in bags]


def test_strange_line_ends_inside_a_field(described):
    texts = ["a\u2028b", "c\u0085d", "e\x0bf", "g\x0ch", "i\x1cj"]
    titles = [texts[n] for n in drawn(1, 100, 5)]
    lines = [f"{n % 2},{title}" for n, title in enumerate(titles)]
    _, toml, features, _ = described("in.csv", ["label,title", *lines])
    assert "first 100 rows" in toml
    assert features["title"].tolist() == counted(titles)


def test_ids_by_their_values(described):
    rows = 400
    hashes = [700_000 + n for n in drawn(1, rows, 90)]
    codes = [f"{n:05d}" for n in drawn(2, rows, 300)]
    amounts = [n * n for n in drawn(3, rows, 800)]
    lines = [
        f"{n % 2},{h},{c},{a}"
        for n, (h, c, a) in enumerate(zip(hashes, codes, amounts, strict=True))
    ]
    description, toml, features, _ = described("in.csv", ["y,hash,code,amount", *lines])
    assert [column.kind for column in description.categorical] == ["integer", "text"]
    assert "numbers of 6 digits that come again and again: names" in toml
    assert "digits with zeros before them" in toml
    assert features["hash"].tolist() == counted(hashes)
    assert features["code"].tolist() == counted(codes)
    assert features["dense"][:, 0].tolist() == np.log1p(amounts).astype(np.float32).tolist()


def test_dates_without_a_zone(described):
    times = [1_400_000_000 + n for n in drawn(1, 200, 30_000_000)]
    written = [str(np.datetime64(time, "s")).replace("T", " ") for time in times]
    lines = [f"{n % 2},{text}" for n, text in enumerate(written)]
    _, toml, features, _ = described("in.csv", ["label,seen", *lines])
    assert "dates in ISO's form, as they are written" in toml
    assert features["seen_hour_of_day"].tolist() == hours(times)
    assert features["seen_weekday"].tolist() == weekdays(times)


def test_libfm(described):
    rows = 200
    users, items = drawn(1, rows, 30), [30 + n for n in drawn(2, rows, 80)]
    labels = [2 * n - 1 for n in drawn(3, rows, 2)]
    lines = [f"{y} {u}:1 {i}:1" for y, u, i in zip(labels, users, items, strict=True)]
    _, toml, features, label = described("frappe.libfm", lines)
    assert "LIBSVM's form" in toml
    assert label == [float(y == 1) for y in labels]
    assert features["field_1"].tolist() == counted(users)
    assert features["field_2"].tolist() == counted(items)
    for odd in ("1 3:1", "1 3:0.5 4:1"):
        with pytest.raises(DataError, match="is of LIBSVM's form with another number of features"):
            described("a.libsvm", [*lines, odd])


def test_a_stand_in_for_the_delimiter_is_no_part_of_a_field(tmp_path):
    description = from_toml(
        'format = "csv"\ndelimiter = "::"\ncolumns = ["y", "x"]\nlabel = "y"\n'
        '[categorical]\nx = {kind = "text", hash_buckets = 1000}\n',
        "d",
    )
    path = tmp_path / "in.dat"
    path.write_text("0::a\n1\x1fb\n1::c:d\n")
    source = TabularFormat(description)
    (piece,) = source.pieces(str(path))
    parsed = source.parse(piece)
    assert [(bad.line, bad.what) for bad in parsed.bad] == [(1, "it holds the character b'\\x1f'")]
    expected = fingerprints(pa.array(["a", "c:d"])) % np.uint64(1000)
    assert parsed.rows.keys[0].tolist() == expected.tolist()
