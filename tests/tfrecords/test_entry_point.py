"""What ends a command with a sentence, whichever command it is."""

import contextlib
import errno
import os
import sys

import pytest
from absl import app

from tfrecords import entry_point, files
from tfrecords.errors import DataError

MODULES = [
    ("tfrecords.convert", []),
    ("tfrecords.convert_beam", []),
    ("tfrecords.convert_criteo", []),
    ("tfrecords.data_service", ["dispatcher", "--port=0"]),
    ("tfrecords.examples", ["export", "--dataset=x", "--output_dir=x"]),
    ("tfrecords.inspect", ["x"]),
    ("tfrecords.leave_one_out", ["--input=x", "--output_dir=x"]),
    ("tfrecords.random", ["--output_dir=x"]),
    ("tfrecords.synthetic", ["profile"]),
    ("tf_dlrm.train", []),
    ("tf_dlrm.launch", ["--"]),
]


@pytest.mark.parametrize(("module", "arguments"), MODULES)
def test_a_flag_file_that_is_no_text(run_command, tmp_path, module, arguments):
    path = tmp_path / "noise.flags"
    path.write_bytes(b"--rows=\xff\xfe\x00")
    done = run_command(module, f"--flagfile={path}", *arguments)
    assert done.code == 2 and "--flagfile must name a file of flags as text" in done.err
    assert "Traceback" not in done.err and done.out == ""


def test_flags_of_the_conversion_by_beam(run_command):
    done = run_command("tfrecords.convert_beam", "--records_per_file=0")
    assert done.code == 1 and "flag --records_per_file=0" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (DataError("Row 3 is bad."), "error: Row 3 is bad."),
        (app.UsageError("Name one folder."), "error: Name one folder."),
        (OSError(errno.ENOSPC, "No space left on device", "a.txt"), "a.txt: No space left on de"),
        (OSError(errno.ENOSPC, "No space left on device"), "error: No space left on device."),
    ],
)
def test_an_error_is_one_line(monkeypatch, error, said):
    monkeypatch.setattr(sys, "argv", ["command"])

    def main(argv):
        raise error

    with pytest.raises(SystemExit) as caught:
        entry_point.run(main)
    assert said in caught.value.code and "\n" not in caught.value.code


def test_output_that_cannot_be_written(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["command"])
    with (
        open("/dev/full", "w") as full,
        contextlib.redirect_stdout(full),
        pytest.raises(SystemExit) as caught,
    ):
        entry_point.run(lambda argv: print("result"))
    assert caught.value.code == "error: Standard output: No space left on device."


def test_closed_output_is_told_before_the_work(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(SystemExit, match="Standard output is closed"):
        entry_point.run(lambda argv: pytest.fail("it began"))


def test_closed_errors_lose_only_errors(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    entry_point.prepare_streams()
    assert sys.stderr.write("x") == 1


def test_a_device_is_written_and_not_replaced(tmp_path):
    with pytest.raises(OSError, match="/dev/full") as caught:
        files.write_bytes("/dev/full", b"x")
    assert caught.value.errno == errno.ENOSPC
    assert not os.path.isfile("/dev/full")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    files.write_bytes(str(fifo), b"whole")
    assert os.read(reader, 9) == b"whole" and not fifo.is_file()
    os.close(reader)


def test_a_full_disk_names_the_file(monkeypatch, tmp_path):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="plan.json"):
        files.write_bytes(str(tmp_path / "plan.json"), b"x")
    assert list(tmp_path.iterdir()) == []


def test_a_plan_that_cannot_be_written(run_command):
    done = run_command("tf_dlrm.plan", "--tables=100", "--devices=2", "--output=/dev/full")
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[-1] == "plan: /dev/full: No space left on device."


@pytest.mark.parametrize("value", ["nan", "1"])
def test_the_minimum_of_new_is_looked_at_before_reading(run_command, tmp_path, value):
    done = run_command(
        "tfrecords.synthetic",
        "profile",
        f"--dataset={tmp_path}",
        f"--distribution_dir={tmp_path / 'out'}",
        f"--minimum_of_new={value}",
    )
    assert done.code == 1 and f"--minimum_of_new={float(value)} must lie in [0, 1)." in done.err
