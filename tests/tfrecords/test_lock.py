"""One process at a time: also where the lock's file is removed, and where there are no locks."""

import errno
import importlib.util
import os
import stat
import sys
import tempfile

import pytest

from tfrecords import files, lock
from tfrecords import folder as folder_module
from tfrecords.errors import DataError
from tfrecords.folder import WholeFolder
from tfrecords.lock import Lock, LockHeld


@pytest.fixture
def before_flock(monkeypatch):
    """Does something once, between the opening of a lock's file and its locking."""

    def arrange(action):
        flock, left = lock.fcntl.flock, [action]

        def locking(*arguments):
            if left:
                left.pop()()
            return flock(*arguments)

        monkeypatch.setattr(lock.fcntl, "flock", locking)

    return arrange


def test_a_lock_whose_file_was_removed_meanwhile_is_taken_anew(tmp_path, before_flock):
    path = str(tmp_path / "set")
    first = WholeFolder(path)
    before_flock(first.discard)
    second = WholeFolder(path)  # opens the file of the first one, which then removes it
    with pytest.raises(DataError, match="Another process is writing the data set"):
        WholeFolder(path)
    second.discard()
    WholeFolder(path).discard()
    assert os.listdir(tmp_path) == []


def test_another_process_was_faster_in_making_the_file_anew(tmp_path, before_flock):
    path = str(tmp_path / "set")
    first, others = WholeFolder(path), []

    def end_and_let_another_begin():
        first.discard()
        others.append(WholeFolder(path))

    before_flock(end_and_let_another_begin)
    with pytest.raises(DataError, match="Another process is writing the data set"):
        WholeFolder(path)
    assert os.path.isdir(others[0].work)
    others[0].discard()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said_and_used(tmp_path, monkeypatch, caplog, code):
    def flock(*arguments):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    with WholeFolder(str(tmp_path / "set")) as folder:
        (tmp_path / ".set.incomplete" / "dataset.json").write_text("new")
        folder.commit()
    assert (tmp_path / "set" / "dataset.json").read_text() == "new"
    assert f"has no locks ({os.strerror(code)}), so make sure that no other" in caplog.text
    assert str(tmp_path) in caplog.text


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.EACCES])
def test_a_lock_that_is_held(tmp_path, monkeypatch, code):
    def flock(*arguments):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    with pytest.raises(LockHeld):
        Lock(str(tmp_path / "lock"))


def test_a_system_without_locks_is_said_and_used(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "fcntl", None)  # to import it is an ImportError
    spec = importlib.util.find_spec(lock.__name__)
    without = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(without)
    monkeypatch.setattr(folder_module, "Lock", without.Lock)
    monkeypatch.delattr(os, "O_NOFOLLOW")
    with WholeFolder(str(tmp_path / "set")) as folder:
        (tmp_path / ".set.incomplete" / "dataset.json").write_text("new")
        folder.commit()
    assert (tmp_path / "set" / "dataset.json").read_text() == "new"
    assert os.listdir(tmp_path) == ["set"]
    (said,) = [record.getMessage() for record in caplog.records]
    path = tmp_path / ".set.lock"
    assert said.startswith(
        f"This system has no locks for {path} (Python's module fcntl), so make s"
    )


def test_a_lock_that_is_a_link_empties_no_file(tmp_path):
    (tmp_path / "mine").write_text("content")
    (tmp_path / ".set.lock").symlink_to(tmp_path / "mine")
    with pytest.raises(DataError, match="set.lock is a link; remove it"):
        WholeFolder(str(tmp_path / "set"))
    assert (tmp_path / "mine").read_text() == "content"


def test_a_lock_keeps_what_its_file_holds_and_can_be_taken_again(tmp_path):
    (tmp_path / "lock").write_text("content")
    first = Lock(str(tmp_path / "lock"))
    with pytest.raises(LockHeld):
        Lock(str(tmp_path / "lock"))
    first.release()
    Lock(str(tmp_path / "lock")).release()
    assert (tmp_path / "lock").read_text() == "content"


def test_temporary_folders_are_this_users_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    path = folder_module._own_temporary_folder()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
    assert folder_module._own_temporary_folder() == path
    os.chmod(path, 0o777)
    with pytest.raises(DataError, match="could be changed by others"):
        folder_module._own_temporary_folder()
    os.rmdir(path)
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    os.symlink(tmp_path / "elsewhere", path)
    with pytest.raises(DataError, match="could be changed by others"):
        folder_module._own_temporary_folder()


def test_two_processes_that_write_one_file_do_not_mix_their_bytes(tmp_path, monkeypatch):
    path, replace = str(tmp_path / "run.json"), os.replace

    def replacing(source, target):
        monkeypatch.setattr(os, "replace", replace)
        files.write_bytes(path, b"the other process")
        replace(source, target)

    monkeypatch.setattr(os, "replace", replacing)
    files.write_bytes(path, b"this one")
    assert (tmp_path / "run.json").read_bytes() == b"this one"
    assert os.listdir(tmp_path) == ["run.json"]


def test_a_file_that_cannot_be_written_leaves_the_earlier_one(tmp_path, monkeypatch):
    files.write_bytes(str(tmp_path / "run.json"), b"earlier")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_bytes(str(tmp_path / "run.json"), b"new")
    assert (tmp_path / "run.json").read_bytes() == b"earlier"
    assert os.listdir(tmp_path) == ["run.json"]
