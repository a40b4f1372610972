"""Input that cannot be used: one sentence, and nothing half-written."""

import errno
import gzip
import io
import os
import signal
import subprocess
import sys

import pytest

from tfrecords import fault
from tfrecords.conversion.shuffle import Shuffle
from tfrecords.conversion.spool import Spool
from tfrecords.errors import DataError
from tfrecords.reader import RecordSource
from tfrecords.writer import DatasetWriter


@pytest.fixture
def convert(tmp_path, convert_criteo):
    def run(path, **options):
        return convert_criteo([path], tmp_path / "out", **options)

    return run


def _changed(line, column, value):
    fields = line.split("\t")
    fields[column] = value
    return "\t".join(fields)


_BAD_FIELDS = [
    (0, "2", "column 'label' is '2', where 0 or 1 is needed", "label"),
    (0, "", "column 'label' is '', where 0 or 1 is needed", "label"),
    (3, "nan", "column 'I3' is 'nan', where a whole number", "integer"),
    (13, "1.5", "column 'I13' is '1.5', where a whole number", "integer"),
    (1, "99999999999", "column 'I1' is '99999999999', where a whole number", "integer"),
    (14, "xyz", "column 'C1' is 'xyz', where one to eight hexadecimal", "category"),
    (39, "g0000000", "column 'C26' is 'g0000000', where one to eight", "category"),
    (20, "123456789", "column 'C7' is '123456789', where one to eight", "category"),
    (20, "\udcff\udcfe", r"column 'C7' is b'\\xff\\xfe' \(not UTF-8\)", "category"),
    (5, "\udcff", r"column 'I5' is b'\\xff' \(not UTF-8\)", "integer"),
    (20, "a\tb", "it has 41 columns, where 40 are needed", "number of columns"),
]


@pytest.mark.parametrize(("column", "value", "message", "kind"), _BAD_FIELDS)
def test_a_bad_row(tmp_path, convert, criteo_lines, column, value, message, kind):
    lines = criteo_lines(100)
    lines[41] = _changed(lines[41], column, value)
    path = tmp_path / "in.txt"
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=f"Line 42 of {path} is no row: {message}"):
        convert(path)
    assert os.listdir(tmp_path) == ["in.txt"]
    info = convert(path, on_bad_row="skip", split="none")
    assert info.how_it_was_made["bad_rows_skipped"] == {kind: 1}
    assert info.splits["train"].rows == 99


def test_39_columns_in_the_second_file_and_a_later_piece(
    tmp_path, convert_criteo, criteo_lines, monkeypatch
):
    monkeypatch.setattr("tfrecords.conversion.text_input.PIECE_BYTES", 3000)
    lines = criteo_lines(100)
    (tmp_path / "good").write_text("\n".join(lines))
    lines[70] = lines[70].rsplit("\t", 1)[0]
    (tmp_path / "bad").write_text("\n".join(lines))
    paths = [str(tmp_path / "good"), str(tmp_path / "bad")]
    message = f"Line 71 of {paths[1]} is no row: it has 39 columns, where 40 are needed"
    with pytest.raises(DataError, match=message):
        convert_criteo(paths, tmp_path / "out")
    progress = io.StringIO()
    info = convert_criteo(paths, tmp_path / "out", progress, on_bad_row="skip")
    assert sum(split.rows for split in info.splits.values()) == 199
    assert "Skipped 1 lines for their number of columns." in progress.getvalue()


def test_a_blank_line(tmp_path, convert, criteo_lines):
    lines = criteo_lines(20)
    (tmp_path / "in").write_text("\n".join([*lines[:10], "", *lines[10:]]))
    with pytest.raises(DataError, match="Line 11 of .* is no row: it has 1 columns"):
        convert(tmp_path / "in")


def test_only_bad_rows(tmp_path, convert):
    (tmp_path / "in").write_text("hello\nworld\n")
    with pytest.raises(DataError, match="not one row in .*: all 2 lines were skipped"):
        convert(tmp_path / "in", on_bad_row="skip")


def test_files_that_cannot_be_read(tmp_path, convert, criteo_lines):
    with pytest.raises(DataError, match=r"input file '.*/missing' does not exist"):
        convert(tmp_path / "missing")
    (tmp_path / "empty").write_text("")
    with pytest.raises(DataError, match=r"input file '.*/empty' is empty"):
        convert(tmp_path / "empty")
    with gzip.open(tmp_path / "empty.gz", "wb"):
        pass
    with pytest.raises(DataError, match=r"input file '.*/empty\.gz' is empty"):
        convert(tmp_path / "empty.gz")
    with gzip.open(tmp_path / "cut.gz", "wt") as file:
        file.write("\n".join(criteo_lines(500)))
    os.truncate(tmp_path / "cut.gz", os.path.getsize(tmp_path / "cut.gz") - 100)
    with pytest.raises(DataError, match=r"cut\.gz ends in the middle of its compressed data"):
        convert(tmp_path / "cut.gz")
    (tmp_path / "no.gz").write_text("\n".join(criteo_lines(5)))
    with pytest.raises(DataError, match=r"no\.gz is no whole gzip file"):
        convert(tmp_path / "no.gz")
    (tmp_path / "endless").write_bytes(b"x" * (40 << 20))
    with pytest.raises(DataError, match=r"endless holds a line of more than"):
        convert(tmp_path / "endless")
    assert "out" not in os.listdir(tmp_path)
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


@pytest.mark.parametrize(
    ("kind", "method"), [(Spool, "append"), (DatasetWriter, "write"), (Shuffle, "flush")]
)
def test_a_full_disk_leaves_the_old_set_and_the_work(
    tmp_path, convert, criteo_lines, monkeypatch, kind, method
):
    path = tmp_path / "in"
    path.write_text("\n".join(criteo_lines(100)))
    convert(path)
    before = RecordSource(str(tmp_path / "out")).fingerprint

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(kind, method, full)
        with pytest.raises(DataError, match=f"no room left for {tmp_path}/out.* same command"):
            convert(path, shuffle="total", split="0.2")
    assert RecordSource(str(tmp_path / "out")).fingerprint == before
    assert sorted(os.listdir(tmp_path)) == [".out.incomplete", "in", "out"]
    convert(path, shuffle="total", split="0.2")
    assert RecordSource(str(tmp_path / "out")).fingerprint != before
    assert sorted(os.listdir(tmp_path)) == ["in", "out"]


def test_the_program_ends_with_one_sentence(tmp_path, run_command):
    (tmp_path / "in").write_text("0\t1\n")
    done = run_command(
        "tfrecords.convert_criteo", f"--input={tmp_path}/in", f"--output_dir={tmp_path}/o"
    )
    assert done.code == 1
    assert "Traceback" not in done.err
    assert done.err.splitlines()[-1].startswith(
        f"error: Line 1 of {tmp_path}/in is no row: it has 2"
    )
    assert os.listdir(tmp_path) == ["in"]


def _in_a_process(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.process
def test_a_killed_run_leaves_the_old_set(tmp_path, convert, criteo_lines):
    lines = criteo_lines(400)
    first = tmp_path / "first"
    first.write_text("\n".join(lines))
    convert(first)
    before = RecordSource(str(tmp_path / "out")).fingerprint
    second = tmp_path / "second"
    second.write_text("\n".join(lines * 2))
    flags = [f"--input={second}", f"--output_dir={tmp_path}/out"]
    # The second entry says that rows are parsed.
    fault_at = {fault.VARIABLE: "journal:2:SIGKILL"}
    killed = _in_a_process("tfrecords.convert_criteo", *flags, **fault_at)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (tmp_path / ".out.incomplete").exists()
    assert RecordSource(str(tmp_path / "out")).fingerprint == before
    with pytest.raises(DataError, match="no data set"):
        RecordSource(str(tmp_path / ".out.incomplete"))
    convert(first, min_count=2)
    assert RecordSource(str(tmp_path / "out")).fingerprint != before
    assert sorted(os.listdir(tmp_path)) == ["first", "out", "second"]


@pytest.fixture
def broken(numbered):
    """A data set of which bytes have changed, and the file that they are in."""
    path, _, _ = numbered(120)
    file = os.path.join(path, "train-00000.tfrecord")
    with open(file, "r+b") as stream:
        stream.seek(100)
        stream.write(b"\xff\x00\xff")
    return path, file


def test_inspect(numbered, run_command):
    path, _, _ = numbered(120)
    done = run_command("tfrecords.inspect", path)
    assert done.code == 0, done.err
    assert "split train: 120 rows" in done.out and "row_id: 120 ids, 1 a row" in done.out
    last = done.out.splitlines()[-1]
    assert last == "All checksums, row counts and values are as they should be."


def test_inspect_finds_bytes_that_have_changed(broken, run_command):
    path, file = broken
    done = run_command("tfrecords.inspect", path)
    assert done.code == 1 and "Traceback" not in done.err
    assert done.err.splitlines()[-1].startswith(f"error: Record 0 of {file} is broken: ")


@pytest.mark.process
def test_inspect_in_a_process_of_its_own(broken):
    path, file = broken
    done = _in_a_process("tfrecords.inspect", path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"error: Record 0 of {file} is broken: ")
