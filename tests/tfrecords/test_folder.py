"""Processes that die while a folder takes another one's place."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from tfrecords.fault import VARIABLE
from tfrecords.folder import WholeFolder

_ROOT = pathlib.Path(__file__).parents[2]
_PROGRAM = """
import pathlib, sys
from tfrecords.folder import WholeFolder
with WholeFolder(sys.argv[1]) as folder:
    pathlib.Path(folder.work, "dataset.json").write_text("new")
    folder.commit()
"""


def _write(path, fault):
    """Runs the program, which does not import TensorFlow; returns its exit code."""
    command = [sys.executable, "-c", _PROGRAM, str(path)]
    environment = os.environ | {"PYTHONPATH": str(_ROOT), VARIABLE: fault}
    return subprocess.run(command, env=environment, timeout=60).returncode


@pytest.mark.parametrize("old", [None, "old"])
@pytest.mark.parametrize(("point", "left"), [(1, "old"), (2, "new")])
def test_the_next_process_finds_the_old_one_or_the_new_one(tmp_path, old, point, left):
    path = tmp_path / "set"
    if old:
        path.mkdir()
        (path / "dataset.json").write_text(old)
        (path / "of_the_old_one").touch()
    assert _write(path, f"folder:{point}:SIGKILL") == -signal.SIGKILL
    assert (point == 1) == (tmp_path / ".set.incomplete").exists()
    WholeFolder(str(path)).discard()
    assert {entry.name for entry in tmp_path.iterdir()} <= {"set"}
    if old or point == 2:
        assert (path / "dataset.json").read_text() == left
        assert (path / "of_the_old_one").exists() == (left == "old")
    else:
        assert not path.exists()
    assert _write(path, "") == 0
    assert [entry.name for entry in path.iterdir()] == ["dataset.json"]
