"""Processes, and machines, that die while a folder takes another one's place."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from tfrecords import files
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


@pytest.fixture
def calls(monkeypatch):
    """What the system is told of files: ("sync", path) and ("rename", source, target), in order."""
    told = []
    sync = os.fsync

    def fsync(descriptor):
        told.append(("sync", os.readlink(f"/proc/self/fd/{descriptor}")))
        sync(descriptor)

    def renaming(rename):
        def call(source, target):
            told.append(("rename", str(source), str(target)))
            rename(source, target)

        return call

    monkeypatch.setattr(os, "fsync", fsync)
    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, renaming(getattr(os, name)))
    return told


@pytest.mark.parametrize("old", [False, True])
def test_a_folder_is_on_the_disk_before_it_has_its_name_and_the_name_after(tmp_path, calls, old):
    path, work = str(tmp_path / "set"), str(tmp_path / ".set.incomplete")
    if old:
        (tmp_path / "set").mkdir()
        (tmp_path / "set" / "dataset.json").touch()
    with WholeFolder(path) as folder:
        os.mkdir(os.path.join(folder.work, "vocabulary"))
        for name in ("dataset.json", "vocabulary/C1.npy"):
            pathlib.Path(folder.work, name).write_text("new")
        folder.commit()
    names = ["", "/dataset.json", "/vocabulary", "/vocabulary/C1.npy"]
    first = calls.index(("rename", work, path))
    # In each folder after its files, so that no name is there without what it names.
    assert sorted(calls[:4]) == [("sync", work + name) for name in names]
    assert calls.index(("sync", f"{work}/dataset.json")) < calls.index(("sync", work))
    assert calls.index(("sync", f"{work}/vocabulary/C1.npy")) < calls.index(
        ("sync", f"{work}/vocabulary")
    )
    assert calls[4:first] == [("rename", path, str(tmp_path / ".set.replaced"))] * old
    assert calls[first + 1 :] == [("sync", str(tmp_path))]


def test_a_file_is_on_the_disk_before_it_has_its_name_and_the_name_after(tmp_path, calls):
    path = str(tmp_path / "run.json")
    for content in (b"first", b"second"):
        calls.clear()
        files.write_bytes(path, content)
        (_, written), (_, source, target), after = calls
        assert calls[0][0] == "sync" and source == written
        assert target == path and after == ("sync", str(tmp_path))
        assert pathlib.Path(path).read_bytes() == content


def test_a_file_of_the_working_folder_is_named_on_the_disk_too(tmp_path, calls, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files.write_bytes("run.json", b"x")
    assert calls[-1] == ("sync", str(tmp_path))
