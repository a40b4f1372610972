"""The folder of compiled libraries.

A library runs with all that its user may do, so nothing is loaded that another user could have
written, and nothing that is not whole: each library ends with its checksum.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import pathlib
import shutil
import stat
import tempfile
from collections.abc import Iterator

try:
    import fcntl
except ImportError:  # where there are no kernels: see build.py
    fcntl = None  # type: ignore[assignment]

_LOG = logging.getLogger(__name__)

_CHECKSUM_BYTES = hashlib.sha256().digest_size
# Of folders in which a process compiles; what one left that was killed is removed by the next.
_WORK = ".compiling-"
# What file systems without locks answer.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class Cache:
    """A folder of libraries that processes of one user share; each is whole or not there.

    The folder is its user's or root's, and nobody else may write to it. The folders above it are
    not looked at.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        """Names the folder, which need not be there."""
        # Absolute: the loader looks for a name without a slash among the system's libraries.
        self._folder = folder.absolute()

    def find(self, pattern: str) -> str | None:
        """Returns the path of a library that may be loaded, or None.

        Args:
            pattern: Its name, maybe with wildcards.

        Raises:
            OSError: If the folder is not one to load from, or cannot be read.
        """
        if not os.path.lexists(self._folder):
            return None
        self._check_folder()
        for path in sorted(self._folder.glob(pattern)):
            fault = _fault(path)
            if not fault:
                return str(path)
            _LOG.warning("%s is not loaded: %s.", path, fault)
        return None

    @contextlib.contextmanager
    def work_folder(self) -> Iterator[pathlib.Path]:
        """Makes an empty folder in the cache, while other processes that ask for one wait.

        Raises:
            OSError: If the cache cannot be written, or is not one to load from.
        """
        for folder in (*reversed(self._folder.parents), self._folder):
            folder.mkdir(mode=0o700, exist_ok=True)
        self._check_folder()
        # A link is not followed, and nothing that is there is emptied.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        lock = os.open(self._folder / ".lock", flags, 0o600)
        try:
            if self._lock(lock):
                for left in self._folder.glob(_WORK + "*"):
                    shutil.rmtree(left, ignore_errors=True)
            with tempfile.TemporaryDirectory(
                prefix=_WORK, dir=self._folder, ignore_cleanup_errors=True
            ) as work:
                yield pathlib.Path(work)
        finally:
            os.close(lock)

    def keep(self, library: pathlib.Path, name: str) -> str:
        """Takes a library from the work folder into the cache, and returns its path.

        Args:
            library: The library.
            name: Its name in the cache; what has it already is replaced.

        Raises:
            OSError: If the library cannot be read, or the cache not written.
        """
        data = library.read_bytes()
        whole = library.with_name(name)
        # Whatever the umask, nobody else may write.
        file = os.open(whole, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        with open(file, "wb") as stream:
            stream.write(data + hashlib.sha256(data).digest())
            stream.flush()
            os.fsync(stream.fileno())
        path = self._folder / name
        os.replace(whole, path)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return str(path)

    def _check_folder(self) -> None:
        status = os.lstat(self._folder)
        if not stat.S_ISDIR(status.st_mode):
            raise NotADirectoryError("it is not a folder, and a link is not followed")
        if fault := _others(status):
            raise PermissionError(
                f"it {fault}, so what is in it may be anybody's; name a folder of your own"
            )

    def _lock(self, lock: int) -> bool:
        """Waits until nobody else compiles; returns whether that can be told."""
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _LOG.warning("Waiting for another process, which compiles into %s.", self._folder)
                fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return False
        return True


def _fault(library: pathlib.Path) -> str:
    """Returns why a library may not be loaded, or nothing."""
    try:
        # Without waiting, if it is a pipe.
        file = os.open(library, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return "it is a link" if error.errno == errno.ELOOP else str(error)
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            return "it is not a file"
        if fault := _others(status):
            return f"it {fault}"
        with open(file, "rb", closefd=False) as stream:
            data = stream.read()
    finally:
        os.close(file)
    checksum = hashlib.sha256(data[:-_CHECKSUM_BYTES]).digest()
    return "" if data[-_CHECKSUM_BYTES:] == checksum else "it is damaged"


def _others(status: os.stat_result) -> str:
    """Returns what lets other users than this one and root write a file or folder, or nothing."""
    if status.st_uid not in (os.geteuid(), 0):
        return f"belongs to another user, of number {status.st_uid}"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"can be written by others (mode {stat.S_IMODE(status.st_mode):o})"
    return ""
