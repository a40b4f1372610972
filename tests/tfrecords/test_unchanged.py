"""Input files that somebody changes while a command reads them."""

import gzip
import io
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tfrecords import examples, leave_one_out
from tfrecords.conversion import input as input_module
from tfrecords.conversion import text_input
from tfrecords.conversion.convert import convert
from tfrecords.conversion.description_file import from_toml
from tfrecords.conversion.options import Options
from tfrecords.conversion.tabular import TabularFormat
from tfrecords.errors import DataError
from tfrecords.progress import Progress
from tfrecords.reader import RecordSource

_TOML = 'format = "{}"\nlabel = "click"\n[categorical]\ncity = "text"\n'
_ROWS = [(row % 2, f"city{row % 7}") for row in range(600)]
_LINES = ["click,city", *(f"{click},{city}" for click, city in _ROWS)]


def _cut_at_a_line(path):
    os.truncate(path, len("\n".join(_LINES[:401])) + 1)


def _write_the_same(path):
    content = path.read_bytes()
    with open(path, "r+b") as file:
        file.write(content)
    os.utime(path, ns=(1, 1))


def _replace(path):
    status = os.stat(path)
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
    os.replace(copy, path)


def _append(path):
    with open(path, "ab") as file:
        file.write(b"1,city0\n")


_CHANGES = {
    "cut": (_cut_at_a_line, "has .* bytes, where it had"),
    "appended": (_append, "has .* bytes, where it had"),
    "written": (_write_the_same, "was written to"),
    "replaced": (_replace, "is another file of the same name"),
    "gone": (os.unlink, "is gone"),
}


@pytest.fixture
def changing(monkeypatch):
    """Changes a file once the first piece of all input has been parsed."""

    def arrange(change, path):
        parse, done = input_module.Input._parse, []

        def parsing(self, work):
            parsed = parse(self, work)
            if not done:
                done.append(change(path))
            return parsed

        monkeypatch.setattr(input_module.Input, "_parse", parsing)

    return arrange


def _convert(path, form="csv"):
    source = TabularFormat(from_toml(_TOML.format(form), "t.toml"), piece_bytes=1000)
    out = str(path.parent / "out")
    return convert([str(path)], out, source, Options(), Progress(io.StringIO()), threads=1)


@pytest.mark.parametrize("name", list(_CHANGES))
def test_text(tmp_path, changing, name):
    path = tmp_path / "in.csv"
    path.write_text("\n".join(_LINES) + "\n")
    change, sentence = _CHANGES[name]
    changing(change, path)
    with pytest.raises(DataError, match=f"in.csv changed while it was read: it {sentence}"):
        _convert(path)
    # Neither a data set nor work that the next run would go on with.
    assert {entry.name for entry in tmp_path.iterdir()} <= {"in.csv"}


@pytest.mark.parametrize("name", ["written", "replaced", "appended", "gone"])
@pytest.mark.parametrize("kind", ["gz", "parquet"])
def test_compressed_text_and_parquet(tmp_path, changing, kind, name):
    path = tmp_path / f"in.{kind}"
    if kind == "gz":
        path.write_bytes(gzip.compress(("\n".join(_LINES) + "\n").encode()))
    else:
        columns = zip(*_ROWS, strict=True)
        pq.write_table(pa.table(dict(zip(["click", "city"], columns, strict=True))), path)
    change, sentence = _CHANGES[name]
    changing(change, path)
    with pytest.raises(DataError, match=f"changed while it was read: it {sentence}"):
        _convert(path, "csv" if kind == "gz" else kind)


def test_an_earlier_file_changes_while_a_later_one_is_read(tmp_path, changing, monkeypatch):
    paths = [tmp_path / "first.csv", tmp_path / "second.csv"]
    for path in paths:
        path.write_text("\n".join(_LINES) + "\n")
    pieces = text_input.text_pieces

    def reading(path, *arguments):
        if path.endswith("second.csv"):
            _append(paths[0])
        return pieces(path, *arguments)

    monkeypatch.setattr(text_input, "text_pieces", reading)
    source = TabularFormat(from_toml(_TOML.format("csv"), "t.toml"))
    names, out = [str(path) for path in paths], str(tmp_path / "out")
    with pytest.raises(DataError, match="first.csv changed while it was read"):
        convert(names, out, source, Options(), Progress(io.StringIO()), threads=1)


@pytest.mark.parametrize("name", ["replaced", "appended"])
def test_work_on_a_file_that_changed_since_is_not_used(tmp_path, name):
    path = tmp_path / "in.csv"
    path.write_text("\n".join(_LINES) + "\n")
    source = TabularFormat(from_toml(_TOML.format("csv"), "t.toml"))
    before = input_module.Input([str(path)], source, False, 1).describe()
    _CHANGES[name][0](path)
    assert input_module.Input([str(path)], source, False, 1).describe() != before


def test_ratings(tmp_path, monkeypatch):
    path = tmp_path / "ratings.csv"
    path.write_text("userId,movieId,timestamp\n1,2,3\n1,3,4\n")
    read = pa.csv.read_csv

    def reading(*arguments, **options):
        _append(path)
        return read(*arguments, **options)

    monkeypatch.setattr(pa.csv, "read_csv", reading)
    with pytest.raises(DataError, match="ratings.csv changed while it was read"):
        leave_one_out.read_ratings(str(path), "userId", "movieId", "timestamp")


def test_examples(numbered, tmp_path, monkeypatch):
    data, _, _ = numbered(20)
    examples.export_examples(RecordSource(data), str(tmp_path / "rows"))
    (path,) = (tmp_path / "rows").glob("*.tfrecord")
    read = examples.read_examples

    def reading(*arguments):
        size = np.frombuffer(path.read_bytes()[:8], "<u8")[0]
        os.truncate(path, int(size) + 16)  # behind its first record
        return read(*arguments)

    monkeypatch.setattr(examples, "read_examples", reading)
    with pytest.raises(DataError, match="tfrecord changed while it was read: it has"):
        examples.import_examples(str(tmp_path / "rows"), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
