"""Damaged tables, logs, ratings and Parquet files, and descriptions of them."""

import bz2
import gzip
import lzma
import pathlib
import shlex

import pyarrow as pa
import pyarrow.parquet
import pytest

pytestmark = pytest.mark.exhaustive

CONVERT = "tfrecords.convert --schema={clicks.toml} --output_dir={out} --input="
CRITEO = "tfrecords.convert_criteo --output_dir={out} --input="
RATINGS = "tfrecords.leave_one_out --evaluation_negatives=9 --output_dir={out} --input="
DESCRIBE = "tfrecords.convert --describe="
PARQUET = "tf_dlrm.train --data=table --data_dir={parquet} --data_schema={parquet.toml}"
PARQUET += " --embedding_dim=4 --bottom_mlp=8,4 --top_mlp=8,1 --batch_size=64"
INPUTS = {CONVERT: "clicks.csv", CRITEO: "criteo.txt", RATINGS: "ratings.csv"}


def _line(content, number, change):
    """One line changed."""
    lines = content.split(b"\n")
    lines[number] = change(lines[number])
    return b"\n".join(lines)


def _fields(separator, change):
    def of_line(line):
        fields = line.split(separator)
        return separator.join(change(fields))

    return of_line


def _both(text, separator):
    """Edits of a text, by name: (edit, whether a line is named)."""

    def field(place, value):
        return lambda text: _line(
            text,
            50,
            _fields(separator, lambda f: [*f[:place], value, *f[place + 1 :]] if f[1:] else f),
        )

    return {
        "empty": lambda text: b"",
        "blank lines": lambda text: b"\n\n\n\n",
        "nul bytes": lambda text: bytes(4000),
        "nul in a line": field(1, b"4\x002"),
        "noise": lambda text: bytes(range(256)) * 20,
        "cr alone": lambda text: text.replace(b"\n", b"\r"),
        "utf-16": lambda text: text.decode().encode("utf-16"),
        "utf-16 without a mark": lambda text: text.decode().encode("utf-16-le"),
        "utf-32": lambda text: text.decode().encode("utf-32"),
        "gzip by another name": gzip.compress,
        "bzip2": bz2.compress,
        "xz": lzma.compress,
        "parquet": lambda text: b"PAR1" + bytes(50) + b"PAR1",
        "a column more": lambda text: _line(text, 50, lambda line: line + separator + b"7"),
        "a column less": lambda text: _line(text, 50, lambda line: line.rpartition(separator)[0]),
        "cut in a line": lambda text: text[: len(text) // 2].rpartition(separator)[0],
        "a label of text": field(0, b"yes"),
        "a number of text": field(1, b"many"),
        "a number that is not finite": field(1, b"1e999"),
        "a huge number": field(1, b"9" * 4000),
        "an html page": lambda text: b"<!DOCTYPE html>\n<html><body>404</body></html>\n",
        "json": lambda text: b'{"click": 1, "age": 3}\n' * 40,
    }[text]


_EDITS = (
    "empty,blank lines,nul bytes,nul in a line,noise,cr alone,utf-16,utf-16 without a mark,utf-32,"
    "gzip by another name,bzip2,xz,parquet,a column more,a column less,cut in a line,"
    "a label of text,a number of text,a number that is not finite,a huge number,an html page,json"
).split(",")


def _edited(place, name, edit):
    path = pathlib.Path(place("{" + name + "}"))
    path.write_bytes(edit(path.read_bytes()))
    return path


@pytest.mark.parametrize("edit", _EDITS)
@pytest.mark.parametrize("command", INPUTS, ids=["convert", "criteo", "ratings"])
def test_a_text(refused, place, command, edit):
    name = INPUTS[command]
    separator = b"\t" if command == CRITEO else b","
    if command == CRITEO and edit == "a number that is not finite":
        pytest.skip("Criteo's numbers are whole ones: a text")
    if command == RATINGS and edit == "cr alone":
        pytest.skip("Arrow reads them rightly")
    path = _edited(place, name, _both(edit, separator))
    module, *arguments = shlex.split(command + str(path))
    refused(module, *arguments, words=name)


@pytest.mark.parametrize(
    "edit",
    [
        "empty",
        "nul bytes",
        "noise",
        "cr alone",
        "utf-16",
        "bzip2",
        "utf-32",
        "gzip by another name",
        "parquet",
        "blank lines",
    ],
)
def test_a_text_to_describe(refused, place, edit):
    path = _edited(place, "clicks.csv", _both(edit, b","))
    refused("tfrecords.convert", f"--describe={path}", words="clicks.csv")


_CSV = {
    "no header": lambda text: text.partition(b"\n")[2],
    "a header alone": lambda text: text.partition(b"\n")[0] + b"\n",
    "a column twice": lambda text: text.replace(b"price", b"age", 1),
    "a column of another name": lambda text: text.replace(b"price", b"cost", 1),
    "a blank name": lambda text: text.replace(b"price", b"", 1),
    "a quote never closed": lambda text: _line(text, 50, lambda line: line.replace(b"site", b'"s')),
    "a quote of 5 MB": lambda text: _line(
        text, 50, lambda line: line.replace(b"site", b'"' + b"s" * 5_000_000)
    ),
    "another separator": lambda text: text.replace(b",", b";;"),
    "labels all alike": lambda text: text.replace(b"\n1,", b"\n0,"),
    "labels from 2 on": lambda text: text.replace(b"\n1,", b"\n2,"),
    "two rows": lambda text: b"\n".join(text.split(b"\n")[:2]) + b"\n",
}


@pytest.mark.parametrize("edit", _CSV)
def test_a_csv_file(refused, place, edit):
    path = _edited(place, "clicks.csv", _CSV[edit])
    # That it has too few rows for a split is said of all input.
    words = (
        "--split" if edit == "two rows" else "label" if edit == "labels all alike" else path.name
    )
    refused(*shlex.split(CONVERT + str(path)), words=words)


_GZIP = {
    "cut": lambda data: data[: len(data) // 2],
    "cut to its header": lambda data: data[:10],
    "flipped": lambda data: data[:300] + bytes([data[300] ^ 16]) + data[301:],
    "another checksum": lambda data: data[:-8] + bytes(8),
    "garbage behind": lambda data: data + b"garbage" * 20,
    "twice": gzip.compress,
    "plain text": gzip.decompress,
    "empty": lambda data: b"",
}


@pytest.mark.parametrize("edit", _GZIP)
@pytest.mark.parametrize("command", INPUTS, ids=["convert", "criteo", "ratings"])
def test_a_gzip_file(refused, place, tmp_path, command, edit):
    text = pathlib.Path(place("{" + INPUTS[command] + "}")).read_bytes()
    path = tmp_path / f"{INPUTS[command]}.gz"
    path.write_bytes(_GZIP[edit](gzip.compress(text)))
    refused(*shlex.split(command + str(path)), words=path.name)


_PATHS = [
    "{nothing}", "{empty_folder}", "{dangling}", "{loop}", "{fifo}", "{unreadable.csv}",
    "/dev/null", "/dev/zero", "/proc/self/mem", "{clicks.csv}/x", "nope://x", "x\ty",
    "s3://bucket/x.csv", "a" * 300, "é\u202e.csv",
]  # fmt: skip


@pytest.mark.parametrize("path", _PATHS)
@pytest.mark.parametrize("command", [*INPUTS, DESCRIBE], ids=[*"abcd"])
def test_a_path(refused, command, path):
    module, *arguments = shlex.split(command)
    arguments[-1] += path
    refused(module, *arguments, words=repr(path)[1:-1])


_LINES = {
    "a label of 2": ("\t2", 0),
    "hexadecimal of 9 digits": ("123456789", 20),
    "no hexadecimal": ("xyz", 20),
    "a fraction": ("1.5", 3),
    "a number beyond 64 bits": ("9" * 30, 3),
}


@pytest.mark.parametrize("edit", _LINES)
def test_a_line_of_criteos_log(refused, place, edit):
    value, at = _LINES[edit]
    change = _fields(b"\t", lambda f: [*f[:at], value.encode(), *f[at + 1 :]])
    path = _edited(place, "criteo.txt", lambda text: _line(text, 50, change))
    refused(*shlex.split(CRITEO + str(path)), words=[path.name, "ine 51"])


_RATINGS = {
    "no timestamp": lambda text: text.replace(b"timestamp", b"time"),
    "users of text": lambda text: text.replace(b"\n3,", b"\nc,"),
    "blank users": lambda text: text.replace(b"\n3,", b"\n,"),
    "users of 20 digits": lambda text: text.replace(b"\n3,", b"\n99999999999999999999,"),
    "a header alone": lambda text: text.partition(b"\n")[0] + b"\n",
    "one rating": lambda text: b"\n".join(text.split(b"\n")[:2]) + b"\n",
    "few items": lambda text: text.partition(b"\n")[0] + b"\n1,1,4,1\n1,2,4,2\n2,1,4,1\n2,3,4,2\n",
}


@pytest.mark.parametrize("edit", _RATINGS)
def test_a_file_of_ratings(refused, place, edit):
    path = _edited(place, "ratings.csv", _RATINGS[edit])
    words = {"few items": "--evaluation_negatives", "one rating": "No user has two items"}.get(
        edit, path.name
    )
    refused(*shlex.split(RATINGS + str(path)), words=words)


_PARTS = {
    "cut": lambda data: data[:-100],
    "empty": lambda data: b"",
    "noise": lambda data: bytes(range(256)),
    "no footer": lambda data: data[:-8] + bytes(8),
    "a footer of 2 GB": lambda data: data[:-8] + b"\xff\xff\xff\x7fPAR1",
    "a flipped footer": lambda data: data[:-200] + bytes(100) + data[-100:],
    "a text": lambda data: b"click,age,price,user\n1,2,3,4\n",
    "only magic": lambda data: b"PAR1PAR1",
}


@pytest.mark.parametrize("split", ["train", "evaluation"])
@pytest.mark.parametrize("edit", _PARTS)
def test_the_bytes_of_a_parquet_file(refused, place, split, edit):
    path = pathlib.Path(place("{parquet}")) / split / "part-0.parquet"
    path.write_bytes(_PARTS[edit](path.read_bytes()))
    refused(*shlex.split(PARQUET), words=[split, "part-0.parquet"])


def _column(name, value):
    return lambda table: table.set_column(table.column_names.index(name), name, value)


_COLUMNS = {
    "a column less": lambda table: table.drop_columns(["user"]),
    "a label of text": _column("click", pa.array(["1"] * 700)),
    "a label of 2": _column("click", pa.array([2] * 700)),
    "labels alike": _column("click", pa.array([0] * 700)),
    "nulls in the label": _column("click", pa.array([None] + [1] * 699)),
    "an id outside": _column("user", pa.array([30] + [1] * 699)),
    "an id below": _column("user", pa.array([-1] + [1] * 699)),
    "ids with fractions": _column("user", pa.array([0.5] * 700)),
    "ids of text": _column("user", pa.array(["a"] * 700)),
    "amounts that are no numbers": _column("price", pa.array([float("nan")] * 700)),
    "amounts that are infinite": _column("price", pa.array([float("inf")] * 700)),
    "amounts of text": _column("price", pa.array(["x"] * 700)),
    "lists of amounts": _column("price", pa.array([[1.0]] * 700)),
    "no rows": lambda table: table.slice(0, 0),
}


@pytest.mark.parametrize("edit", _COLUMNS)
def test_the_columns_of_a_parquet_file(refused, place, edit):
    path = pathlib.Path(place("{parquet}")) / "train/part-0.parquet"
    pa.parquet.write_table(_COLUMNS[edit](pa.parquet.read_table(path)), path)
    words = {"labels alike": "label", "no rows": "train"}.get(edit, "part-0.parquet")
    refused(*shlex.split(PARQUET), words=words)


@pytest.mark.parametrize("path", ["{nothing}", "{empty_folder}", "{clicks.csv}", "{random}"])
def test_a_folder_of_parquet_files(refused, path):
    refused(*shlex.split(PARQUET), f"--data_dir={path}", words="data_dir")


# Changes of clicks.toml: of a text in it, or all of it, and a word of the sentence.
_DESCRIPTIONS = [
    (("[label]", "[lable]"), "lable"),
    (('column = "click"', ""), "column"),
    (('column = "click"', "column = 5"), "column"),
    (('column = "click"', 'column = "age"'), "age"),
    (('column = "click"', 'column = "nothing"'), "nothing"),
    (('column = "click"', 'column = "click"\npositive_from = nan'), "positive_from"),
    (('column = "click"', 'column = "click"\npositive_values = ["yes"]'), "click"),
    (('column = "click"', 'column = "click"\nnegative = 1'), "negative"),
    (('format = "csv"', 'format = "xlsx"'), "xlsx"),
    (('format = "csv"', ""), "format"),
    (('format = "csv"', "format = []"), "format"),
    (('format = "csv"', 'format = "parquet"'), "clicks.csv"),
    (("age = {}", "age = 3"), "age"),
    (("age = {}", "age = {transform = 'cube'}"), "cube"),
    (("age = {}", "age = {missing = 'x'}"), "age"),
    (("age = {}", "age = {}\nage = {}"), "clicks.toml"),
    (('site = "text"', 'site = "words"'), "words"),
    (('site = "text"', "site = 7"), "site"),
    (('site = "text"', 'site = "integer"'), "site"),
    (('site = "text"', 'site = {kind = "text", min_count = -1}'), "site"),
    (('site = "text"', 'site = {kind = "hashed", buckets = 0}'), "site"),
    (('user = "integer"', 'user = {kind = "ids", vocabulary_size = -5}'), "user"),
    (('user = "integer"', 'user = {kind = "ids", vocabulary_size = 1e30}'), "user"),
    (('user = "integer"', 'user = {kind = "ids"}'), "user"),
    (('user = "integer"', 'user = {kind = "datetime", datetime_format = "%Q"}'), "user"),
    (('user = "integer"', '"a/b" = {column = "user", kind = "integer"}'), "a/b"),
    (('user = "integer"', '"" = {column = "user", kind = "integer"}'), "clicks.toml"),
    (('separator = ";"', 'separator = ""'), "separator"),
    (('separator = ";"', "separator = 3"), "separator"),
    (("[dense]", "[dense]\nclick = {}"), "click"),
    (("[categorical]", "[categorical]\nnothing = 'text'"), "nothing"),
    (("[categorical]", "ignore = 5\n[categorical]"), "ignore"),
    ("", "clicks.toml"),
    ("[[[", "clicks.toml"),
    ("x = " + "[" * 3000, "clicks.toml"),
    ("label = 1\ndense = 2\ncategorical = 3\nformat = 4", "clicks.toml"),
    ("\0\1\2", "clicks.toml"),
    (b"\xff\xfea\0", "clicks.toml"),
    ('{"label": "click"}', "clicks.toml"),
    ("a = 1\n" * 2, "clicks.toml"),
]


@pytest.mark.parametrize(("edit", "word"), _DESCRIPTIONS)
def test_a_description(refused, place, edit, word):
    path = pathlib.Path(place("{clicks.toml}"))
    if isinstance(edit, tuple):
        assert edit[0] in path.read_text()
        path.write_text(path.read_text().replace(*edit))
    else:
        path.write_bytes(edit if isinstance(edit, bytes) else edit.encode())
    refused(*shlex.split(CONVERT + "{clicks.csv}"), words=word)
