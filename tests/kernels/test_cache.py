"""The cache of compiled libraries: what is loaded from it, and what is not."""

import errno
import hashlib
import os
import threading

import pytest

from tf_dlrm.kernels import cache as cache_module
from tf_dlrm.kernels.cache import Cache

_DATA = b"compiled"
_WHOLE = _DATA + hashlib.sha256(_DATA).digest()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "above" / "cache"


def _put(folder, name="a.so"):
    cache = Cache(folder)
    with cache.work_folder() as work:
        (work / "new").write_bytes(_DATA)
        return cache.keep(work / "new", name)


def _modes(folder):
    return {path.name: oct(path.stat().st_mode & 0o777) for path in folder.iterdir()}


@pytest.mark.parametrize(("umask", "mode"), [(0, "0o644"), (0o22, "0o644"), (0o77, "0o600")])
def test_only_the_user_may_write_whatever_the_umask(folder, umask, mode):
    before = os.umask(umask)
    try:
        path = _put(folder)
    finally:
        os.umask(before)
    assert path == str(folder / "a.so") == Cache(folder).find("a.so")
    assert (folder / "a.so").read_bytes() == _WHOLE
    assert _modes(folder) == {".lock": "0o600", "a.so": mode}
    assert _modes(folder.parent.parent) == {"above": "0o700"}
    assert _modes(folder.parent) == {"cache": "0o700"}


@pytest.mark.parametrize(
    "data",
    [b"", _WHOLE[:-1], _WHOLE[: len(_WHOLE) // 2], b"d" + _WHOLE[1:], _WHOLE + b"0", _DATA],
    ids=["empty", "almost", "half", "changed", "longer", "without"],
)
def test_a_damaged_library_is_not_there_and_is_replaced(folder, data, caplog):
    path = _put(folder)
    (folder / "a.so").write_bytes(data)
    assert Cache(folder).find("a.so") is None
    assert f"{path} is not loaded: it is damaged." in caplog.text
    _put(folder)
    assert Cache(folder).find("a.so") == path


def _planted_link(path):
    whole = path.with_name("elsewhere")
    path.rename(whole)
    path.symlink_to(whole)


def _other_owner(path):
    if os.geteuid() != 0:
        pytest.skip("Only root can give a file away.")
    os.chown(path, 12345, 12345)


def _pipe(path):
    path.unlink()
    os.mkfifo(path, 0o600)


@pytest.mark.parametrize(
    ("plant", "fault"),
    [
        (_planted_link, "it is a link"),
        (_other_owner, "it belongs to another user, of number 12345"),
        (lambda path: path.chmod(0o666), "it can be written by others (mode 666)"),
        (lambda path: path.chmod(0o664), "it can be written by others (mode 664)"),
        (_pipe, "it is not a file"),
        (lambda path: (path.unlink(), path.mkdir(mode=0o700)), "it is not a file"),
    ],
    ids=["link", "owner", "666", "664", "pipe", "folder"],
)
def test_a_library_that_others_may_have_written_is_not_loaded(folder, plant, fault, caplog):
    path = _put(folder)
    plant(folder / "a.so")
    assert Cache(folder).find("a.so") is None
    assert f"{path} is not loaded: {fault}." in caplog.text


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777, 0o702])
def test_a_folder_that_others_can_write_is_refused(folder, mode):
    _put(folder)
    folder.chmod(mode)
    for use in (lambda: Cache(folder).find("a.so"), lambda: _put(folder)):
        with pytest.raises(PermissionError, match=rf"can be written by others \(mode {mode:o}\)"):
            use()


def test_a_folder_of_another_user_is_refused(folder):
    _put(folder)
    _other_owner(folder)
    with pytest.raises(PermissionError, match="belongs to another user, of number 12345"):
        Cache(folder).find("a.so")


def test_a_folder_that_is_a_link_or_a_file_is_refused(folder, tmp_path):
    _put(folder)
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    for name in ("link", "broken", "file"):
        with pytest.raises(NotADirectoryError, match="not a folder, and a link is not followed"):
            Cache(tmp_path / name).find("a.so")
    assert not (tmp_path / "nowhere").exists()


def test_a_lock_that_is_a_link_empties_nothing(folder, tmp_path):
    folder.mkdir(parents=True, mode=0o700)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (folder / ".lock").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic link"):
        _put(folder)
    assert victim.read_text() == "precious"


def test_what_a_killed_process_left_is_removed_and_nothing_else(folder):
    (folder / ".compiling-left").mkdir(parents=True)
    (folder / ".compiling-left" / "half.o").write_text("half")
    (folder / "mine").mkdir()
    folder.chmod(0o700)
    _put(folder)
    assert sorted(_modes(folder)) == [".lock", "a.so", "mine"]


def test_a_failure_leaves_nothing(folder):
    with pytest.raises(ZeroDivisionError), Cache(folder).work_folder() as work:
        (work / "half.o").write_text("half")
        raise ZeroDivisionError
    assert sorted(_modes(folder)) == [".lock"]


def test_one_works_while_others_wait(folder, caplog):
    inside = []

    def second():
        with Cache(folder).work_folder():
            inside.append("second")

    with Cache(folder).work_folder() as work:
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        inside.append("first")
        assert work.exists()
    thread.join()
    assert inside == ["first", "second"]
    assert caplog.text.count("Waiting for another process, which compiles into") == 1


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_locks_of_the_file_system_nobodys_work_is_removed(folder, code, monkeypatch):
    def flock(file, operation):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(cache_module.fcntl, "flock", flock)
    with Cache(folder).work_folder() as work:
        _put(folder)
        assert work.exists()
    assert Cache(folder).find("a.so") == str(folder / "a.so")


def test_a_relative_folder_has_an_absolute_path(tmp_path, monkeypatch):
    """The loader would look for a name without a slash among the system's libraries."""
    monkeypatch.chdir(tmp_path)
    assert _put(type(tmp_path)("."), "a.so") == str(tmp_path / "a.so")
