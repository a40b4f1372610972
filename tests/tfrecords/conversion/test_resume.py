"""A conversion that was stopped, started again: the same bytes, and what was finished is used."""

import io
import os
import random
import re
import shutil
import signal
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tfrecords import fault, writer
from tfrecords import folder as folder_module
from tfrecords.conversion import memory, shuffle, text_input
from tfrecords.conversion.convert import convert as convert_files
from tfrecords.conversion.description_file import from_toml
from tfrecords.conversion.journal import Journal
from tfrecords.conversion.options import Options
from tfrecords.conversion.spool import Spool
from tfrecords.conversion.tabular import TabularFormat
from tfrecords.errors import DataError
from tfrecords.progress import Progress


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def content(tmp_path):
    def read(name):
        folder = tmp_path / name
        files = (path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}

    return read


@pytest.fixture
def small(monkeypatch):
    """Many pieces, buckets and record files of few rows."""
    monkeypatch.setattr(text_input, "PIECE_BYTES", 6000)
    monkeypatch.setattr(memory.Memory, "bucket_bytes", 9000)
    monkeypatch.setattr(shuffle, "_FLUSH_BYTES", 12_000)
    monkeypatch.setattr(writer, "RECORDS_PER_FILE", 3)


@pytest.fixture
def killed_at(monkeypatch):
    """Runs something and kills it at the n-th entry of the journal; tells how many there were."""

    def run(number, cut, work):
        count = 0
        add = Journal.add

        def adding(self, kind, **values):
            nonlocal count
            count += 1
            if count == number:
                if cut:
                    self._file.write(b'{"kind":"piece","pl')
                    self._file.flush()
                raise Killed
            add(self, kind, **values)

        with monkeypatch.context() as patch:
            patch.setattr(Journal, "add", adding)
            try:
                work()
            except Killed:
                pass
        return count

    return run


@pytest.fixture
def inputs(tmp_path, criteo_lines):
    lines = criteo_lines(240, seed=4)
    paths = []
    for number, part in enumerate((lines[:90], lines[90:170], lines[170:])):
        path = tmp_path / f"day_{number}"
        path.write_text("\n".join(part) + "\n")
        paths.append(path)
    return paths


_TOML = """
format = "{form}"
label = "y"
[dense]
d = "none"
[categorical]
c = "text"
i = {{kind = "integer", vocabulary_size = 7}}
"""
_TAGS = 'tags = {separator = "|"}\n'


@pytest.fixture
def tables(tmp_path):
    """Two days of 40 and 33 rows, some bad, as CSV or as Parquet with row groups of 17."""

    def write(form, bad=(3, 13, 23)):
        rng = random.Random(2)
        paths = []
        for day, count in enumerate((40, 33)):
            rows = [
                {
                    "y": str(int(rng.random() < 0.4)),
                    "d": "bad" if row in bad else str(100 * day + row),
                    "c": rng.choice(["a", "b", "", "dd", "e", f"only {row}"]),
                    "i": str(rng.randrange(7)),
                    "tags": "|".join(rng.sample("pqrst", rng.randrange(4))),
                }
                for row in range(count)
            ]
            paths.append(str(tmp_path / f"day_{day}.{form}"))
            if form == "parquet":
                pq.write_table(pa.Table.from_pylist(rows), paths[-1], row_group_size=17)
            else:
                lines = [",".join(row.values()) for row in rows]
                with open(paths[-1], "w") as file:
                    file.write("\n".join(["y,d,c,i,tags", *lines]) + "\n")
        return paths

    return write


@pytest.fixture
def convert_table(tmp_path):
    """Converts tables in pieces of five rows of Parquet, or about as many lines of text."""

    def run(paths, name, stream=None, **options):
        form = paths[0].rsplit(".", 1)[1]
        top = 'ignore = ["tags"]\n' if "multi_hot" in options else ""
        toml = top + _TOML.format(form=form) + ("" if top else _TAGS)
        source = TabularFormat(
            from_toml(toml, "t.toml"), piece_bytes=640 if form == "parquet" else 75
        )
        always = {"on_odd_labels": "accept", "on_bad_row": "skip", "rows_per_record": 4}
        how = Options(**{**always, **options})
        progress = Progress(stream or io.StringIO())
        return convert_files(paths, str(tmp_path / name), source, how, progress, threads=2)

    return run


_OPTIONS = {
    "in order": {"min_count": 2, "keep_negatives": 0.7, "seed": 4},
    "total": {"shuffle": "total", "seed": 1, "keep_negatives": 0.6},
    "day": {"shuffle": "day", "split": "last_day", "multi_hot": (2, 3), "seed": 5},
    "reference": {"reference": True, "keep_negatives": 0.5, "split": "0.2", "seed": 2},
}


@pytest.mark.parametrize(
    ("form", "options"),
    [*(("csv", how) for how in _OPTIONS.values()), ("parquet", _OPTIONS["in order"])],
    ids=[*_OPTIONS, "parquet"],
)
def test_stopped_anywhere(
    tmp_path, tables, convert_table, content, small, killed_at, monkeypatch, form, options
):
    monkeypatch.setattr(memory.Memory, "bucket_bytes", 300)
    monkeypatch.setattr(shuffle, "_FLUSH_BYTES", 400)
    # So that most files end within a piece, behind rows that are dropped.
    monkeypatch.setattr(writer, "RECORDS_PER_FILE", 1)
    paths = tables(form)
    entries = killed_at(-1, False, lambda: convert_table(paths, "whole", **options))
    whole = content("whole")
    assert sum(name.startswith("train-") for name in whole) > 1
    used = ""
    for number in range(2, entries + 1, 3):
        killed_at(number, number % 2, lambda: convert_table(paths, "stopped", **options))
        assert not (tmp_path / "stopped").exists()
        said = io.StringIO()
        convert_table(paths, "stopped", said, **options)
        used += said.getvalue()
        assert content("stopped") == whole, number
        shutil.rmtree(tmp_path / "stopped")
    for sentence in ("rows that were parsed", "the vocabularies that were", "record files"):
        assert re.search(f"Using .*{sentence}", used), sentence
    assert sorted(os.listdir(tmp_path)) == [*map(os.path.basename, paths), "whole"]


@pytest.mark.parametrize(("form", "entry", "line"), [("csv", 4, 33), ("parquet", 7, 32)])
def test_a_bad_row_behind_the_stop_has_its_number(
    tables, convert_table, killed_at, form, entry, line
):
    paths = tables(form, bad=[31])[1:]
    killed_at(entry, False, lambda: convert_table(paths, "out", on_bad_row="fail"))
    said = io.StringIO()
    with pytest.raises(DataError, match=f"Line {line} of {paths[0]} is no row"):
        convert_table(paths, "out", said, on_bad_row="fail")
    assert "rows that were parsed already" in said.getvalue()


def test_stopped_again_and_again(tmp_path, convert_criteo, inputs, content, small, killed_at):
    def convert(name):
        return convert_criteo(inputs, tmp_path / name, shuffle="total", rows_per_record=16)

    convert("whole")
    rng = random.Random(0)
    runs = 0
    while not (tmp_path / "stopped").exists():
        killed_at(rng.randrange(2, 6), runs % 2, lambda: convert("stopped"))
        runs += 1
    assert runs > 3
    assert content("stopped") == content("whole")


def test_stopped_between_the_entries(tmp_path, convert_criteo, inputs, content, small, monkeypatch):
    def convert(name):
        return convert_criteo(inputs, tmp_path / name, shuffle="total", rows_per_record=16)

    convert("whole")

    def half_a_piece(self, rows, file, kept):
        if self.rows > 100:
            self._file.write(b"half a piece")
            self._file.flush()
            raise Killed
        return append(self, rows, file, kept)

    def half_a_flush(self):
        with open(self._path(1), "ab") as file:
            file.write(b"half of what waits")
        raise Killed

    def no_commit(self):
        raise Killed

    append = Spool.append
    for kind, name, broken in (
        (Spool, "append", half_a_piece),
        (shuffle.Shuffle, "flush", half_a_flush),
        (folder_module.WholeFolder, "commit", no_commit),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(kind, name, broken)
            with pytest.raises(Killed):
                convert("stopped")
    convert("stopped")
    assert content("stopped") == content("whole")
    assert not (tmp_path / ".stopped.incomplete").exists()


def test_nothing_is_parsed_or_written_twice(
    tmp_path, convert_criteo, inputs, small, killed_at, monkeypatch
):
    def convert(stream=None):
        return convert_criteo(inputs, tmp_path / "out", stream, rows_per_record=16)

    # The last entry says that all is written.
    entries = killed_at(-1, False, lambda: convert())
    os.rename(tmp_path / "out", tmp_path / "whole")
    killed_at(entries, False, lambda: convert())
    work = tmp_path / ".out.incomplete"
    before = {path.name: path.stat().st_mtime_ns for path in work.glob("*.tfrecord")}
    assert len(before) == 5 + 1
    said = io.StringIO()
    convert(said)
    assert "Using 240 rows that were parsed already." in said.getvalue()
    assert "Using 6 record files (240 rows)" in said.getvalue()
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tfrecord")}
    assert after == before


@pytest.mark.parametrize(
    "change", ["options", "time", "size", "path", "format", "records", "fresh"]
)
def test_other_work_is_not_used(
    tmp_path, convert_criteo, inputs, content, small, killed_at, monkeypatch, change
):
    killed_at(9, False, lambda: convert_criteo(inputs, tmp_path / "out", rows_per_record=16))
    options = {"rows_per_record": 16}
    if change == "options":
        options["min_count"] = 2
    elif change == "format":
        options["max_index_range"] = 5
    elif change == "path":
        inputs[0] = inputs[0].rename(tmp_path / "day_x")
    elif change == "records":
        monkeypatch.setattr(writer, "RECORDS_PER_FILE", 2)
    elif change == "time":
        os.utime(inputs[0], ns=(1, 1))
    elif change == "size":
        with open(inputs[0], "a") as file:
            file.write(inputs[1].read_text())
    said = io.StringIO()
    convert_criteo(inputs, tmp_path / "out", said, fresh=change == "fresh", **options)
    assert "Removed the unfinished work" in said.getvalue()
    assert "Using" not in said.getvalue()
    convert_criteo(inputs, tmp_path / "again", **options)
    assert content("out") == content("again")


@pytest.mark.parametrize(
    "name", ["spool", "shuffle/00001", "train-00000.tfrecord", "vocabulary/C3.npy"]
)
def test_damaged_work_is_found(
    tmp_path, convert_criteo, inputs, content, small, killed_at, monkeypatch, name
):
    def convert(name):
        return convert_criteo(inputs, tmp_path / name, shuffle="total", rows_per_record=16)

    convert("whole")
    count = 0
    on_file = writer._SplitWriter._end_file

    def ending(self, file):
        nonlocal count
        count += 1
        if count == 2:
            raise Killed
        on_file(self, file)

    with monkeypatch.context() as patch:
        patch.setattr(writer._SplitWriter, "_end_file", ending)
        with pytest.raises(Killed):
            convert("out")
    path = tmp_path / ".out.incomplete" / name
    data = bytearray(path.read_bytes())
    # Of the spool only the evaluation rows are read again.
    data[-1 if name == "spool" else len(data) // 2] ^= 4
    path.write_bytes(data)
    with pytest.raises(DataError, match=f"{path}.* not (the ones|what).* same command again"):
        convert("out")
    convert("out")
    assert content("out") == content("whole")


def test_an_interrupt_ends_in_a_sentence(
    tmp_path, criteo_lines, content, monkeypatch, run_command, small
):
    path = tmp_path / "in"
    path.write_text("\n".join(criteo_lines(100)) + "\n")
    command = ["tfrecords.convert_criteo", f"--input={path}"]
    assert run_command(*command, f"--output_dir={tmp_path}/whole").code == 0
    command.append(f"--output_dir={tmp_path}/out")
    # Whoever started the tests in the background made them ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patch:
            patch.setenv(fault.VARIABLE, "journal:3:SIGINT")
            done = run_command(*command)
    finally:
        signal.signal(signal.SIGINT, before)
    assert done.code == 128 + signal.SIGINT
    assert done.err.splitlines()[-1].startswith("error: Interrupted. The same command goes on")
    assert sorted(os.listdir(tmp_path)) == [".out.incomplete", "in", "whole"]
    assert "rows that were parsed already" in run_command(*command).err
    assert content("out") == content("whole")


@pytest.mark.process
def test_a_process_that_is_killed_and_interrupted(tmp_path, criteo_lines, content, convert_criteo):
    path = tmp_path / "in"
    path.write_text("\n".join(criteo_lines(400) * 20) + "\n")
    # So little memory makes the smallest pieces, of about 1,300 of these lines.
    command = [sys.executable, "-m", "tfrecords.convert_criteo", f"--input={path}"]
    command += [f"--output_dir={tmp_path}/out", "--shuffle=total", "--memory_gb=0.01"]

    def run(fault_at=""):
        return subprocess.run(
            command,
            env={**os.environ, fault.VARIABLE: fault_at},
            capture_output=True,
            text=True,
            # A shell's background jobs ignore SIGINT, and so would all that they start.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    assert run("journal:3:SIGKILL").returncode == -signal.SIGKILL
    assert (tmp_path / ".out.incomplete").exists() and not (tmp_path / "out").exists()
    done = run("journal:5:SIGINT")
    assert done.returncode == 128 + signal.SIGINT and "rows that were parsed already" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: Interrupted. The same command goes on")
    done = run()
    assert done.returncode == 0 and "rows that were parsed already" in done.stderr
    convert_criteo([path], tmp_path / "whole", shuffle="total", memory_gb=1)
    assert content("out") == content("whole")
    assert sorted(os.listdir(tmp_path)) == ["in", "out", "whole"]
