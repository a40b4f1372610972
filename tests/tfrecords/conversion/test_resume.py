"""A conversion that was stopped, started again: the same bytes, and what was finished is used."""

import io
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest

from tfrecords import folder as folder_module
from tfrecords import writer
from tfrecords.conversion import journal, memory, shuffle, text_input
from tfrecords.conversion.journal import Journal
from tfrecords.conversion.spool import Spool
from tfrecords.errors import DataError


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


_OPTIONS = {
    "in order": {"min_count": 2},
    "total": {"shuffle": "total", "seed": 1, "keep_negatives": 0.6},
    "day": {"shuffle": "day", "split": "last_day", "multi_hot": (2,) * 26},
    "reference": {"reference": True, "keep_negatives": 0.5, "split": "0.2"},
}


@pytest.mark.parametrize("options", _OPTIONS.values(), ids=_OPTIONS)
def test_stopped_anywhere(tmp_path, convert_criteo, inputs, content, small, killed_at, options):
    def convert(name, stream=None, fresh=False):
        return convert_criteo(inputs, tmp_path / name, stream, fresh, rows_per_record=16, **options)

    entries = killed_at(-1, False, lambda: convert("whole"))
    whole = content("whole")
    assert sum(name.startswith("train-") for name in whole) > 1
    used = ""
    for number in range(2, entries + 1, 3):
        killed_at(number, number % 2, lambda: convert("stopped"))
        assert not (tmp_path / "stopped").exists()
        said = io.StringIO()
        convert("stopped", said)
        used += said.getvalue()
        assert content("stopped") == whole, number
        for path in sorted((tmp_path / "stopped").rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        (tmp_path / "stopped").rmdir()
    for sentence in ("rows that were parsed", "the vocabularies that were", "record files"):
        assert re.search(f"Using .*{sentence}", used), sentence
    assert sorted(os.listdir(tmp_path)) == ["day_0", "day_1", "day_2", "whole"]


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
    for kind, name, fault in (
        (Spool, "append", half_a_piece),
        (shuffle.Shuffle, "flush", half_a_flush),
        (folder_module.WholeFolder, "commit", no_commit),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(kind, name, fault)
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


@pytest.mark.parametrize("change", ["options", "time", "size", "format", "fresh"])
def test_other_work_is_not_used(
    tmp_path, convert_criteo, inputs, content, small, killed_at, change
):
    killed_at(9, False, lambda: convert_criteo(inputs, tmp_path / "out", rows_per_record=16))
    options = {"rows_per_record": 16}
    if change == "options":
        options["min_count"] = 2
    elif change == "format":
        options["max_index_range"] = 5
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


def test_a_process_that_is_killed_or_interrupted(tmp_path, criteo_lines, content, convert_criteo):
    path = tmp_path / "in"
    path.write_text("\n".join(criteo_lines(400) * 600) + "\n")
    command = [sys.executable, "-m", "tfrecords.convert_criteo", f"--input={path}"]
    command += [f"--output_dir={tmp_path}/out", "--shuffle=total", "--memory_gb=0.2"]
    rng = random.Random(1)
    for number, code in ((signal.SIGKILL, -9), (signal.SIGINT, 1)):
        process = subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            text=True,
            # A shell's background jobs ignore SIGINT, and so would all that they start.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        written = tmp_path / ".out.incomplete" / journal.FILE_NAME
        before = written.stat().st_size if written.exists() else 0
        deadline = time.monotonic() + 120
        while not written.exists() or written.stat().st_size < before + rng.randrange(300, 900):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.002)
        process.send_signal(number)
        _, said = process.communicate(timeout=120)
        assert process.returncode == code, said
        if number == signal.SIGINT:
            assert "Using" in said
            assert said.splitlines()[-1].startswith("error: Interrupted. The same command goes on")
    finished = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=True)
    assert "rows that were parsed already" in finished.stderr
    convert_criteo([path], tmp_path / "whole", shuffle="total", memory_gb=1)
    assert content("out") == content("whole")
    assert sorted(os.listdir(tmp_path)) == ["in", "out", "whole"]
