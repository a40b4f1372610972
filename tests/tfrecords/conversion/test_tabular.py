"""Tables as rows: CSV, TSV and Parquet alike, and equal to a plain reading of the values."""

import csv
import datetime
import gzip
import io
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrecords.conversion.column_description import CategoricalColumn
from tfrecords.conversion.description_file import from_toml, load
from tfrecords.conversion.tabular import TabularFormat
from tfrecords.errors import DataError
from tfrecords.kinds import Hexadecimal, Integer, Text

_TOML = """
format = "{format}"
null_values = ["", "NA"]
ignore = ["id"]
[label]
column = "rating"
positive_from = 4.0
[dense]
price = {{transform = "log1p", missing = 0}}
age = "none"
[categorical]
city = "text"
number = {{kind = "integer", min_count = 3}}
hex = "hexadecimal"
bucket = {{column = "city", hash_buckets = 10}}
number_bucket = {{column = "number", kind = "integer", hash_buckets = 7}}
small = {{kind = "integer", vocabulary_size = 5, missing = 2}}
tags = {{separator = "|"}}
two = {{column = "tags", separator = "|", hotness = 2, longer = "cut"}}
hour = {{column = "time", kind = "datetime", datetime_format = "%y%m%d%H", part = "hour_of_day"}}
weekday = {{column = "time", kind = "datetime", datetime_format = "%y%m%d%H", part = "weekday"}}
day = {{column = "time", kind = "datetime", datetime_format = "%y%m%d%H", part = "day_of_month"}}
month = {{column = "time", kind = "datetime", datetime_format = "%y%m%d%H", part = "month"}}
"""
_COLUMNS = ("id", "rating", "price", "age", "city", "number", "hex", "small", "tags", "time")


def _format(form="csv", **arguments):
    return TabularFormat(from_toml(_TOML.format(format=form), "t.toml"), **arguments)


def _fingerprint(text):
    return int(tf.fingerprint([text]).numpy().view("<u8")[0, 0])


def _oracle(rows):
    """What one row after the other should become: label, dense, keys per feature (lists)."""
    label, dense, keys = [], [], []
    for row in rows:
        value = {name: "" if text == "NA" else text for name, text in row.items()}
        label.append(float(float(value["rating"]) >= 4))
        dense.append([math.log1p(max(float(value["price"] or 0), 0)), float(value["age"])])
        date = datetime.datetime.strptime(value["time"], "%y%m%d%H")
        number = value["number"]
        tags = [_fingerprint("" if t == "NA" else t) for t in value["tags"].split("|")]
        tags = tags if value["tags"] else []
        keys.append(
            [
                [_fingerprint(value["city"])],
                [int(number) % 2**64 if number else 2**63],
                [int(value["hex"], 16) if value["hex"] else 2**32],
                [int(tf.strings.to_hash_bucket_fast([value["city"]], 10)[0])],
                [int(tf.strings.to_hash_bucket_fast([number and str(int(number))], 7)[0])],
                [int(value["small"] or 2)],
                tags,
                (tags + 2 * [_fingerprint("")])[:2],
                [date.hour],
                [date.weekday()],
                [date.day - 1],
                [date.month - 1],
            ]
        )
    return np.array(label), np.array(dense), keys


def _check(rows, expected):
    label, dense, keys = expected
    np.testing.assert_array_equal(rows.label, label.astype(np.float32))
    np.testing.assert_array_equal(rows.dense, dense.astype(np.float32).T)
    assert rows.label.dtype == rows.dense.dtype == np.float32
    for index, of_column in enumerate(rows.keys):
        assert of_column.dtype == np.uint64
        wanted = [row[index] for row in keys]
        assert of_column.tolist() == sum(wanted, []), index
        lengths = rows.lengths[index]
        assert (lengths is not None) == (index == 6)
        if lengths is not None:
            assert lengths.tolist() == [len(of_row) for of_row in wanted]
            assert lengths.dtype == np.int32


def _write(path, rows, name):
    if name == "parquet":
        table = pa.Table.from_pylist(
            rows, pa.schema([(column, pa.string()) for column in _COLUMNS])
        )
        pq.write_table(table, path, row_group_size=17)
        return
    out = io.StringIO(newline="")
    style = {"delimiter": ","} if name == "csv" else {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    if name == "tsv":
        style["quotechar"] = None
    writer = csv.DictWriter(out, _COLUMNS, lineterminator="\n", **style)
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(out.getvalue(), encoding="utf-8", newline="")


def _read(format, path, start=0):
    parsed = [format.parse(piece) for piece in format.pieces(str(path), start)]
    assert not any(part.bad for part in parsed)
    return _joined([part.rows for part in parsed])


def _joined(parts):
    first = parts[0]
    return type(first)(
        np.concatenate([part.label for part in parts]),
        np.concatenate([part.dense for part in parts], axis=1),
        tuple(np.concatenate(keys) for keys in zip(*(part.keys for part in parts), strict=True)),
        tuple(
            None if of_column[0] is None else np.concatenate(of_column)
            for of_column in zip(*(part.lengths for part in parts), strict=True)
        ),
    )


_TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8)
_ROW = st.fixed_dictionaries(
    {
        "id": st.just("7"),
        "rating": st.floats(0, 5).map(repr),
        "price": st.one_of(st.just(""), st.just("NA"), st.floats(-10, 1e30).map(repr)),
        "age": st.one_of(st.integers(0, 2**40).map(str), st.floats(-1e30, 1e30).map(repr)),
        "city": st.one_of(st.just("NA"), _TEXT),
        "number": st.one_of(st.just(""), st.integers(-(2**63) + 1, 2**63 - 1).map(str)),
        "hex": st.one_of(st.just(""), st.integers(0, 2**32 - 1).map("{:x}".format)),
        "small": st.sampled_from(["", "0", "4", "NA"]),
        "tags": st.lists(_TEXT.filter(lambda t: "|" not in t), max_size=4).map("|".join),
        "time": st.sampled_from(["14102100", "15010123", "00022912"]),
    }
)


@pytest.mark.parametrize("name", ["csv", "tsv", "parquet"])
@settings(max_examples=40)
@given(st.lists(_ROW, min_size=1, max_size=12))
def test_any_rows(tmp_path_factory, name, rows):
    path = tmp_path_factory.mktemp("tables") / f"table.{name}"
    _write(path, rows, name)
    _check(_read(_format(name), path), _oracle(rows))


def _rows(count):
    rng = np.random.default_rng(count)
    return [
        {
            "id": str(index),
            "rating": str(rng.integers(0, 11) / 2),
            "price": ["", "NA", "-3", "1e3", "7.25"][rng.integers(5)],
            "age": str(index),
            "city": ["Bern", 'the "new" one', "a,b", "", "Köln"][rng.integers(5)],
            "number": ["", "-1", "007", "12345678901"][rng.integers(4)],
            "hex": ["", "0", "FFffFFff", "12ab34cd", "abc"][rng.integers(5)],
            "small": str(rng.integers(5)),
            "tags": ["", "a", "a|b", "b||NA|c"][rng.integers(4)],
            "time": f"1410{rng.integers(1, 32):02d}{rng.integers(24):02d}",
        }
        for index in range(count)
    ]


@pytest.mark.parametrize("name", ["csv", "tsv", "csv.gz", "parquet"])
def test_pieces_of_any_size_and_from_any_place(tmp_path, name):
    rows = _rows(120)
    path = tmp_path / f"table.{name}"
    _write(path, rows, name.removesuffix(".gz"))
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(path.read_bytes()))
    label, dense, keys = _oracle(rows)
    format = _format(name.removesuffix(".gz"), piece_bytes=640)
    pieces = list(format.pieces(str(path)))
    assert len(pieces) > 8
    done = [piece.bytes_done for piece in pieces]
    assert done == sorted(done) and done[-1] == path.stat().st_size
    before, at = 0, pieces[0].start
    for number, piece in enumerate(pieces):
        assert piece.start == at
        if number % 3 == 0:  # of Parquet, also within a row group
            rest = _read(format, path, piece.start) if before else _read(format, path)
            _check(rest, (label[before:], dense[before:], keys[before:]))
        before += format.parse(piece).lines
        at = piece.end
    assert before == 120
    assert list(format.pieces(str(path), at)) == []
    # A run with more memory goes on where one with less has stopped.
    assert _read(_format(name.removesuffix(".gz")), path, pieces[3].start).label.tolist() == (
        label[sum(format.parse(piece).lines for piece in pieces[:3]) :].tolist()
    )


def test_parquet_of_its_own_types(tmp_path):
    rows = _rows(60)

    def column(name, kind, parse):
        values = [row[name] for row in rows]
        return pa.array([None if v in ("", "NA") else parse(v) for v in values], kind)

    table = pa.table(
        {
            "rating": column("rating", pa.float32(), float),
            "price": column("price", pa.float64(), float),
            "age": column("age", pa.int16(), int),
            "city": column("city", pa.large_string(), str).dictionary_encode(),
            # As pandas writes whole numbers with gaps.
            "number": column("number", pa.float64(), float),
            "hex": column("hex", pa.binary(), str.encode),
            "small": column("small", pa.uint8(), int),
            "tags": pa.array(
                [
                    [None if t in ("", "NA") else t for t in row["tags"].split("|")]
                    if row["tags"]
                    else []
                    for row in rows
                ],
                pa.list_(pa.string()),
            ),
            "time": pa.array(
                [datetime.datetime.strptime(row["time"], "%y%m%d%H") for row in rows],
                pa.timestamp("us"),
            ),
        }
    )
    pq.write_table(table, tmp_path / "own.parquet", row_group_size=23)
    toml = _TOML.format(format="parquet").replace('ignore = ["id"]', "")
    toml = toml.replace('separator = "|", hotness', "hotness").replace(
        'separator = "|"', 'hotness = "any"'
    )
    format = TabularFormat(from_toml(toml, "t.toml"), piece_bytes=128 * 10)
    assert len(list(format.pieces(str(tmp_path / "own.parquet")))) == 8
    _check(_read(format, tmp_path / "own.parquet"), _oracle(rows))


def _small(entries, top='format = "csv"', label='label = "y"'):
    return TabularFormat(from_toml(f"{top}\n{label}\n{entries}\n", "t.toml"))


@pytest.fixture
def parse(tmp_path):
    def run(format, text):
        path = tmp_path / "in.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        parsed = [(piece, format.parse(piece)) for piece in format.pieces(str(path))]
        assert len(parsed) == 1
        return parsed[0]

    return run


_ALL = """
[dense]
d = "none"
[categorical]
c = "text"
i = "integer"
h = "hexadecimal"
v = {kind = "integer", vocabulary_size = 5}
b = {separator = "|", kind = "integer", hotness = 2}
u = {kind = "datetime", datetime_format = "unix", part = "weekday"}
"""
_GOOD = ["1", "0.5", "Bern", "-7", "ab", "4", "1|2", "86400"]


@pytest.mark.parametrize(
    ("column", "value", "kind", "what"),
    [
        (0, "2", "label", "column 'y' is 2, where a number from 0 to 1 is needed"),
        (0, "-0.1", "label", "column 'y' is -0.1, where a number from 0 to 1 is needed"),
        (0, "yes", "label", "column 'y' is 'yes', where a number is needed"),
        (0, "", "label", "column 'y' is missing, where a number is needed"),
        (0, "nan", "label", "column 'y' is 'nan', where a number is needed"),
        (1, "abc", "number", "column 'd' is 'abc', where a number is needed"),
        (1, "", "missing value", "column 'd' is missing, where a number is needed"),
        (1, "inf", "number", "column 'd' is 'inf', where a number is needed"),
        (1, "NaN", "number", "column 'd' is 'NaN', where a number is needed"),
        (1, "1e39", "number", "column 'd' is 1e+39, which a number of 32 bits cannot hold"),
        (1, "1e999", "number", "column 'd' is '1e999', where a number is needed"),
        (1, "x" * 99, "number", "column 'd' is '" + "x" * 56 + "..., where a number is needed"),
        (3, "1.5", "number", "column 'i' is '1.5', where a whole number of 64 bits is needed"),
        (
            3,
            "99999999999999999999",
            "number",
            "column 'i' is '99999999999999999999', where a whole number of 64 bits is needed",
        ),
        (
            3,
            "-9223372036854775808",
            "number",
            "column 'i' is -9223372036854775808, where a whole number of 64 bits above it is "
            "needed",
        ),
        (
            4,
            "xyz",
            "hexadecimal",
            "column 'h' is 'xyz', where one to eight hexadecimal digits are needed",
        ),
        (
            4,
            "123456789",
            "hexadecimal",
            "column 'h' is '123456789', where one to eight hexadecimal digits are needed",
        ),
        (5, "5", "id", "column 'v' is 5, where an id in [0, 5) is needed"),
        (5, "-1", "id", "column 'v' is -1, where an id in [0, 5) is needed"),
        (5, "", "missing value", "column 'v' is missing, where an id in [0, 5) is needed"),
        (
            6,
            "1|x",
            "number",
            "column 'b' holds a value that is 'x', where a whole number of 64 bits is needed",
        ),
        (
            6,
            "1|2|3",
            "number of values",
            "column 'b' holds 3 values, where at most 2 are needed",
        ),
        (
            7,
            "1413849600000",
            "date",
            "column 'u' is 1413849600000, where a number of seconds since 1970 (to the year 9999) "
            "is needed",
        ),
    ],
)
def test_bad_values(parse, column, value, kind, what):
    fields = list(_GOOD)
    fields[column] = value
    lines = ["y,d,c,i,h,v,b,u", ",".join(_GOOD), ",".join(fields), ",".join(_GOOD)]
    format = _small(_ALL)
    piece, parsed = parse(format, "\n".join(lines) + "\n")
    assert piece.first_line == 2
    assert [(bad.line, bad.kind, bad.what) for bad in parsed.bad] == [(1, kind, what)]
    assert parsed.lines == 3
    # The other rows are what they are without it.
    _, alone = parse(format, "\n".join([lines[0], lines[1], lines[3], ""]))
    assert alone.bad == []
    assert alone.rows.dense.tolist() == parsed.rows.dense.tolist() == [[0.5, 0.5]]
    for got, wanted in zip(parsed.rows.keys, alone.rows.keys, strict=True):
        assert got.tolist() == wanted.tolist()
    assert alone.rows.keys[5].tolist() == [4, 4]  # The second of January 1970, a Friday.


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("1,2", "it has 2 columns, where 3 are needed"),
        ("1,2,3,4", "it has 4 columns, where 3 are needed"),
        ("", "it has 1 columns, where 3 are needed"),
        ('1,"2,3', "it opens a quote that is not closed on the same line"),
        ('1,2,"3""', "it opens a quote that is not closed on the same line"),
        ("1,2,3\r4", "it holds a carriage return"),
        ('"1,2","a"3', "it has 2 columns, where 3 are needed"),
    ],
)
def test_lines_of_another_form(parse, line, what):
    format = _small('[dense]\nd = "none"\n[categorical]\nc = "text"')
    good = '0,2,"x ""y"", z"'
    _, parsed = parse(format, f"y,d,c\n{good}\n{line}\n{good}\r\n1,abc,d\n")
    assert [bad.line for bad in parsed.bad] == [1, 3]
    assert parsed.bad[0].what.startswith(what)
    assert parsed.bad[1].what == "column 'd' is 'abc', where a number is needed"
    assert parsed.lines == 4
    assert parsed.rows.keys[0].tolist() == 2 * [_fingerprint('x "y", z')]


def test_a_line_break_in_quotes_is_never_taken_for_a_value(parse):
    format = _small('[dense]\nd = "none"\n[categorical]\nc = "text"')
    _, parsed = parse(format, """y,d,c\n0,2,"a\nb"\n1,3,c\n""")
    assert [bad.line for bad in parsed.bad] == [0, 1]
    assert parsed.rows.dense.tolist() == [[3]]
    # Not even where a carriage return makes up for the line.
    _, parsed = parse(format, """y,d,c\n0,2,"a\nb"\n1,3,c\r1,4,d\n0,5,e\n""")
    assert [bad.line for bad in parsed.bad] == [0, 1, 2]
    assert parsed.rows.dense.tolist() == [[5]]


def test_all_rows_bad(parse):
    format = _small('[dense]\nd = "none"')
    for text in ("y,d\n1\n2\n", "y,d\n1,a\n7,1\n"):
        _, parsed = parse(format, text)
        assert parsed.rows is None and len(parsed.bad) == parsed.lines == 2


@pytest.mark.parametrize(
    "field",
    [
        *(" 5", "5 ", "\t5", "+5", "-5", "0x1F", "0X1f", "-0x1F", "1_0", "", " ", "5.0", "٣", "-0"),
        *("007", ".5", "5.", ".", "1e5", "1E-5", "+1.5", "1.5f", "0x1p3", "e5", "inf", "-nan"),
        *("99999999999999999999", "9223372036854775807", "1e400", "1e-400", "1d5", "0xfffffffffff"),
        *("0" * 25 + "7", "-" + "0" * 20 + "12", "0x7fffffffffffffff", "0xffffffffffffffff"),
        *("0x8000000000000000", "0x0ffffffffffffffff", "0009223372036854775808"),
    ],
)
@pytest.mark.parametrize("kind", ["integer", "none"])
def test_a_line_is_good_or_bad_whatever_stands_beside_it(parse, field, kind):
    # A piece with a bad line is parsed in another way than one without.
    part = "dense" if kind == "none" else "categorical"
    format = _small(f'[{part}]\nx = "{kind}"')
    _, alone = parse(format, f"y,x\n1,{field}\n")
    _, beside = parse(format, f"y,x\n1,{field}\n1,2,3\n")
    assert [bad.what for bad in alone.bad] == [bad.what for bad in beside.bad[:-1]]
    if alone.rows is not None:
        assert alone.rows.dense.tolist() == beside.rows.dense.tolist()
        assert [k.tolist() for k in alone.rows.keys] == [k.tolist() for k in beside.rows.keys]


def test_text_labels(parse):
    label = 'label = {column = "y", positive_values = ["click", "buy"]}'
    format = _small('[dense]\nd = "none"', label=label)
    _, parsed = parse(format, "y,d\nclick,1\nview,2\nbuy,3\n,4\n")
    assert parsed.rows.label.tolist() == [1, 0, 1]
    assert [(bad.line, bad.what) for bad in parsed.bad] == [
        (3, "column 'y' is missing, where 'click' or 'buy' is needed")
    ]
    label = 'label = {column = "y", positive_values = ["click"], negative_values = ["view"]}'
    format = _small('[dense]\nd = "none"', label=label)
    _, parsed = parse(format, "y,d\nclick,1\nview,2\nklick,3\n")
    assert parsed.rows.label.tolist() == [1, 0]
    assert parsed.bad[0].what == "column 'y' is 'klick', where 'click' or 'view' is needed"


def test_dates(parse):
    format = _small(
        '[categorical]\nt = {kind = "datetime", datetime_format = "iso", part = "hour_of_day", '
        "missing = 23}"
    )
    text = "y,t\n0,2014-10-21 07:59:59\n0,\n0,1969-12-31T23:00:00Z\n0,2014-10-21T01:00:00+02:00\n"
    _, parsed = parse(format, text + "0,yesterday\n")
    assert parsed.rows.keys[0].tolist() == [7, 23, 23, 23]
    assert parsed.bad[0].what == "column 't' is 'yesterday', where a date as 'iso' says is needed"


def test_dates_of_parquet_before_1970(tmp_path):
    times = [-500, -3_600_000, -3_600_001, 999, None]
    table = pa.table({"y": [1] * 5, "t": pa.array(times, pa.timestamp("ms"))})
    pq.write_table(table, tmp_path / "in.parquet")
    format = _small(
        '[categorical]\nh = {column = "t", kind = "datetime", datetime_format = "iso", '
        'part = "hour_of_day", missing = 5}\n'
        'd = {column = "t", kind = "datetime", datetime_format = "iso", '
        'part = "day_of_month", missing = 6}',
        'format = "parquet"',
    )
    hours, days = _read(format, tmp_path / "in.parquet").keys
    assert hours.tolist() == [23, 23, 22, 0, 5]
    assert days.tolist() == [30, 30, 30, 0, 6]


def test_what_stands_for_a_missing_number_is_transformed_like_any_other(parse):
    format = _small('[dense]\nd = {transform = "log1p", missing = 3}\ne = {missing = -2.5}')
    _, parsed = parse(format, "y,d,e\n0,,\n1,7,1\n")
    expected = np.array([[math.log(4), math.log(8)], [-2.5, 1]], np.float32)
    np.testing.assert_array_equal(parsed.rows.dense, expected)


def test_fingerprints_never_change():
    # Google's FarmHash: of nothing its constant k2, of others as BigQuery's documentation has them.
    published = {"": 0x9AE16A3B2F90404F, "1footrue": -1541654101129638711}
    published["2applefalse"] = 2794438866806483259
    texts = pa.array(list(published), pa.string())
    expected = [number % 2**64 for number in published.values()]
    assert Text().keys(texts, None).tolist() == expected
    buckets = CategoricalColumn("c", "c", hash_buckets=1000).meaning.keys(texts, None).tolist()
    assert buckets == [number % 1000 for number in expected]


def test_fixed_numbers_of_ids(parse):
    format = _small(
        '[categorical]\np = {kind = "integer", separator = "|", hotness = 3, vocabulary_size = 9}\n'
        'q = {column = "p", kind = "integer", separator = "|", hotness = 3, longer = "cut", '
        "vocabulary_size = 9, missing = 8}"
    )
    _, parsed = parse(format, "y,p\n0,1|2|3\n0,1|2\n1,4|5|6|7\n1,3|2|1\n")
    assert parsed.rows.keys[0].tolist() == parsed.rows.keys[1].tolist() == [1, 2, 3, 3, 2, 1]
    assert [bad.what for bad in parsed.bad] == [
        "column 'p' holds 2 values, where 3 are needed",
        "column 'p' holds 4 values, where 3 are needed",
    ]
    format = _small(
        '[categorical]\np = {kind = "integer", separator = "|", hotness = 3, longer = "cut", '
        "vocabulary_size = 9, missing = 8}"
    )
    _, parsed = parse(format, "y,p\n0,1|2\n1,4|5|6|7\n1,\n")
    assert parsed.rows.keys[0].tolist() == [1, 2, 8, 4, 5, 6, 8, 8, 8]


def test_bytes_that_are_no_text(parse):
    format = _small('[dense]\nd = "none"\n[categorical]\nc = "text"')
    _, parsed = parse(format, b"y,d,c\n1,1,\xff\xfe\n1,\xff,a\n")
    assert parsed.rows.keys[0].tolist() == [_fingerprint(b"\xff\xfe")]
    assert parsed.bad[0].what == r"column 'd' is b'\xff' (not UTF-8), where a number is needed"


def test_a_file_without_a_header(parse):
    format = _small('[dense]\nd = "none"', 'format = "tsv"\ncolumns = ["d", "y"]')
    piece, parsed = parse(format, b"\xef\xbb\xbf2.5\t1\n3.5\t0\n")
    assert piece.first_line == 1
    assert parsed.rows.dense.tolist() == [[2.5, 3.5]] and parsed.rows.label.tolist() == [1, 0]


def test_headers(tmp_path):
    path = tmp_path / "in.csv"
    format = _small('[dense]\nd = "none"', 'format = "csv"\nignore = ["id"]')

    def pieces(text):
        path.write_bytes(text.encode())
        return list(format.pieces(str(path)))

    # Columns in any order, a mark at the beginning, names in quotes.
    parsed = format.parse(pieces('\ufeff"d",id,y\r\n2,9,1\r\n')[0])
    assert parsed.rows.dense.tolist() == [[2]]
    assert pieces("d,id,y\n") == pieces("d,id,y") == []
    with pytest.raises(DataError, match=r"in.csv has no column 'd', .* columns are 'id', 'y'\."):
        pieces("id,y\n1,2\n")
    with pytest.raises(DataError, match="has a column 'z' that the description does not name"):
        pieces("id,y,d,z\n")
    with pytest.raises(DataError, match="has two columns called 'd'"):
        pieces("id,y,d,d\n")
    with pytest.raises(DataError, match=r"in.csv' is empty"):
        pieces("")
    ignoring = _small('[dense]\nd = "none"', 'format = "csv"\nother_columns = "ignore"')
    path.write_text("z,d,y\n?,4,0\n")
    assert ignoring.parse(next(ignoring.pieces(str(path)))).rows.dense.tolist() == [[4]]


def test_parquet_that_cannot_be_used(tmp_path):
    path = tmp_path / "in.parquet"

    def pieces(entries, label='label = "y"', **columns):
        pq.write_table(pa.table({"y": [1.0], **columns}), path)
        format = _small(entries, 'format = "parquet"', label)
        return list(format.pieces(str(path)))

    for entries, column, message in (
        ('[categorical]\nx = "text"', [1.5], "double, where text or whole numbers are needed"),
        ('[categorical]\nx = "hexadecimal"', [1], "int64, where text is needed for kind"),
        ('[dense]\nx = "none"', [[1]], "where numbers or text are needed"),
        ('[categorical]\nx = {hotness = "any"}', ["a"], "where hotness = .any. needs lists"),
        ("[categorical]\nx = {hotness = 2}", [[1.5]], "double, where text or whole"),
        (
            "[categorical]\nx = {kind = 'datetime', datetime_format = 'iso', part = 'month'}",
            [1.5],
            "where dates, text or whole numbers are needed",
        ),
    ):
        with pytest.raises(DataError, match=f"in.parquet: the column 'x' is of type .*{message}"):
            pieces(entries, x=column)
    with pytest.raises(DataError, match="has no column 'z'"):
        pieces('[dense]\nz = "none"')
    path.write_bytes(b"PAR1 no more")
    with pytest.raises(DataError, match="in.parquet cannot be read as Parquet"):
        list(_small('[dense]\nx = "none"', 'format = "parquet"').pieces(str(path)))


def test_bad_rows_of_parquet(tmp_path):
    path = tmp_path / "in.parquet"
    table = pa.table({"y": [1, 0, 1, None], "d": [0.5, math.nan, 2.0, 3.0], "i": [1.0, 2, 2.5, 4]})
    pq.write_table(table, path, row_group_size=2)
    format = _small('[dense]\nd = "none"\n[categorical]\ni = "integer"', 'format = "parquet"')
    pieces = list(format.pieces(str(path)))
    assert [piece.first_line for piece in pieces] == [1, 3]
    parsed = [format.parse(piece) for piece in pieces]
    assert [(bad.line, bad.what) for part in parsed for bad in part.bad] == [
        (1, "column 'd' is nan, where a number is needed"),
        (0, "column 'i' is 2.5, where a whole number of 64 bits is needed"),
        (1, "column 'y' is missing, where a number is needed"),
    ]
    assert parsed[0].rows.dense.tolist() == [[0.5]] and parsed[1].rows is None


def test_columns_and_description():
    format = _format("csv", name="mine")
    assert (format.name, format.label, format.dense) == ("mine", "rating", ("price", "age"))
    assert [(c.hotness, c.vocabulary_size, c.min_count) for c in format.columns] == [
        *((1, None, None), (1, None, 3), (1, None, None), (1, 10, None), (1, 7, None)),
        *((1, 5, None), (None, None, None), (2, None, None)),
        *((1, 24, None), (1, 7, None), (1, 31, None), (1, 12, None)),
    ]
    described = format.describe()
    assert described["name"] == "mine"
    assert TabularFormat(from_toml(described["description"], "d")).columns == format.columns
    assert (Integer().blank, Hexadecimal().blank) == (2**63, 2**32)


def test_avazu(tmp_path):
    header = (
        "id,click,hour,C1,banner_pos,site_id,site_domain,site_category,app_id,app_domain,"
        "app_category,device_id,device_ip,device_model,device_type,device_conn_type,"
        "C14,C15,C16,C17,C18,C19,C20,C21"
    )
    line = "10000000000000000001,1,14102113,1005,0,0a1b2c3d,f" + ",0000000f" * 7
    (tmp_path / "train").write_text(f"{header}\n{line},1,0,15706,320,50,1722,0,35,-1,79\n")
    format = TabularFormat(load("avazu"))
    rows = _read(format, tmp_path / "train")
    assert rows.label.tolist() == [1] and rows.dense.shape == (0, 1)
    assert [int(key[0]) for key in rows.keys] == [
        *(13, 1, 1005, 0, 0x0A1B2C3D, 15, 15, 15, 15, 15, 15, 15, 15),
        *(1, 0, 15706, 320, 50, 1722, 0, 35, 2**64 - 1, 79),
    ]
