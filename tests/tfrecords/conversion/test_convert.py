"""Tables end to end: from a file and a description to a data set, and the command line."""

import io
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tfrecords.conversion import description_file
from tfrecords.conversion.convert import convert
from tfrecords.conversion.description_guess import guess
from tfrecords.conversion.options import Options
from tfrecords.conversion.tabular import TabularFormat
from tfrecords.errors import DataError
from tfrecords.progress import Progress
from tfrecords.reader import RecordSource

_CITIES = ["Bern", "Köln", "New York", "Bern", "", "Oslo"]
_TOML = """
format = "csv"
label = "click"
[dense]
age = "log1p"
[categorical]
city = "text"
tags = {separator = "|"}
slot = {kind = "integer", vocabulary_size = 4}
"""


def _lines(count):
    lines = ["click,age,city,tags,slot"]
    for row in range(count):
        tags = "|".join("abcde"[: row % 4])
        lines.append(f"{row % 2},{row},{_CITIES[row % 6]},{tags},{row % 4}")
    return lines


@pytest.fixture
def table(tmp_path):
    (tmp_path / "clicks.csv").write_text("\n".join(_lines(70)) + "\n", encoding="utf-8")
    (tmp_path / "clicks.toml").write_text(_TOML)
    return tmp_path


def test_a_data_set_holds_the_values_of_the_table(table, read_blocks, read_all):
    out = str(table / "out")
    format = TabularFormat(description_file.load(str(table / "clicks.toml")))
    convert([str(table / "clicks.csv")], out, format, Options(min_count=2), Progress(io.StringIO()))
    source = RecordSource(out)
    assert source.schema.label == "click" and source.schema.dense == ("age",)
    assert (source.rows("train"), source.rows("evaluation")) == (60, 10)
    # One of them as training reads it.
    parts = [read_blocks(out, "train"), read_all(source, "evaluation")]
    assert np.concatenate([label for _, label in parts]).tolist() == [n % 2 for n in range(70)]
    dense = np.concatenate([features["dense"] for features, _ in parts])
    np.testing.assert_array_equal(dense[:, 0], np.log1p(np.arange(70)).astype(np.float32))
    slots = np.concatenate([features["slot"] for features, _ in parts])
    assert slots.tolist() == [n % 4 for n in range(70)]

    def decoded(name, texts):
        """From ids back to texts, by the vocabulary's keys."""
        info = source.info.vocabularies[name]
        keys = np.load(os.path.join(out, info.path)).tolist()
        prints = tf.fingerprint(texts).numpy().view("<u8").reshape(-1).tolist()
        text_of = {key: text for key, text in zip(prints, texts, strict=True)}
        return lambda number: text_of[keys[number - info.reserved]]

    city = decoded("city", sorted(set(_CITIES)))
    cities = np.concatenate([features["city"] for features, _ in parts])
    assert [city(number) for number in cities] == [_CITIES[n % 6] for n in range(70)]
    tag = decoded("tags", list("abcde"))
    tags = sum((features["tags"] for features, _ in parts), [])
    assert [[tag(i) for i in row] for row in tags] == [list("abcde"[: n % 4]) for n in range(70)]
    described = source.info.how_it_was_made["format"]["description"]
    assert description_file.from_toml(described, "d") == description_file.from_toml(_TOML, "d")


def test_the_command_describes_and_converts(table, run_command, monkeypatch):
    monkeypatch.chdir(table)
    done = run_command("tfrecords.convert", "--describe=clicks.csv")
    assert done.code == 0, done.err
    (table / "guessed.toml").write_text(done.out)
    lines = _lines(70)
    lines[9] = "1,old,Bern,,2"
    (table / "clicks.csv").write_text("\n".join(lines) + "\n")
    flags = ["--schema=guessed.toml", "--input=clicks.csv", "--output_dir=out"]
    done = run_command("tfrecords.convert", *flags)
    assert done.code == 1
    assert "Line 10 of clicks.csv is no row: column 'age' is 'old', where" in done.err
    done = run_command("tfrecords.convert", *flags, "--on_bad_row=skip", "--split=none")
    assert done.code == 0, done.err
    assert RecordSource(str(table / "out")).rows("train") == 69
    assert "--schema is needed" in run_command("tfrecords.convert", *flags[1:]).err


@pytest.mark.process
def test_the_command_in_a_process_of_its_own(table):
    done = subprocess.run(
        [sys.executable, "-m", "tfrecords.convert", "--schema=clicks.toml", "--input=clicks.csv"]
        + ["--output_dir=out"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=table,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Wrote out: 60 rows train, 10 rows evaluation." in done.stderr


def test_guesses(table):
    text = guess(str(table / "clicks.csv"))
    description = description_file.from_toml(text, "guess")
    assert description.label.column == "click" and description.null_values == ("",)
    assert [column.name for column in description.dense] == ["age"]
    kinds = {column.name: column.kind for column in description.categorical}
    assert kinds == {"city": "text", "tags": "text", "slot": "integer"}
    path = table / "ratings.tsv"
    path.write_text(
        "userId\trating\twhen\tcode\n"
        + "".join(
            f"{n}\t{n % 10 / 2}\t2014-10-21 0{n % 5}:00:00\t{n * 9973 % 2**32:08x}\n"
            for n in range(60)
        )
    )
    description = description_file.from_toml(guess(str(path)), "guess")
    assert description.format == "tsv"
    assert description.label.positive_from == 2.5
    columns = [(column.name, column.kind) for column in description.categorical]
    assert columns == [
        ("userId", "integer"),
        ("when_hour_of_day", "datetime"),
        ("when_weekday", "datetime"),
        ("code", "hexadecimal"),
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "x,z\na,2\nb,3\n", "No column of .*a.csv looks like a label.* columns are x, z"),
        ("a.json", "{}", r"must end in \.csv, \.tsv, \.txt"),
        ("a.csv", "x\n1\n", "holds none of .*, of which one must stand between"),
        ("a.csv", "x,label\n", "holds no row"),
        ("a.parquet", "no", "cannot be read as Parquet"),
    ],
)
def test_files_that_cannot_be_described(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        guess(str(tmp_path / name))
