"""A lock that one process at a time holds, and that ends with the process."""

from __future__ import annotations

import errno
import logging
import os

try:
    import fcntl
except ImportError:  # of systems other than POSIX ones
    fcntl = None  # type: ignore[assignment]

_LOG = logging.getLogger(__name__)
# What `flock` answers where a file system has no locks, or its lock server does not answer: NFS,
# Lustre without `-o flock`, FUSE.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


class LockHeld(Exception):
    """Another process holds the lock."""


class Lock:
    """Takes a lock, which a file stands for.

    On a file system or a system without locks this warns and goes on: there, the user has to see to
    it that no other process does the same.

    Args:
        path: The file. It is made where it is missing; what it holds is left alone.

    Raises:
        LockHeld: If another process holds the lock.
        OSError: If the file cannot be opened, or is a link.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        while True:
            # No link is followed, which somebody else could have put there. Systems without fcntl
            # have no such flag either.
            flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
            self._descriptor = os.open(path, flags, 0o666)
            try:
                self._lock()
                # Whoever held the lock may have removed the file after it was opened here. Then
                # the next process makes another file and locks that, so this one is worth nothing.
                if self._is_there():
                    return
            except BaseException:
                os.close(self._descriptor)
                raise
            os.close(self._descriptor)

    def _lock(self) -> None:
        if fcntl is None:
            self._warn(f"This system has no locks for {self._path} (Python's module fcntl)")
            return
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _HELD:
                raise LockHeld(self._path) from None
            if error.errno not in _NO_LOCKS:
                raise
            self._warn(f"The file system of {self._path} has no locks ({error.strerror})")

    def _warn(self, why: str) -> None:
        _LOG.warning(
            "%s, so make sure that no other process writes the same folder meanwhile.", why
        )

    def _is_there(self) -> bool:
        try:
            there = os.stat(self._path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(os.fstat(self._descriptor), there)

    def release(self, remove: bool = False) -> None:
        """Gives the lock back.

        Args:
            remove: Whether the file is removed as well.
        """
        if remove:
            # While the lock is still held, so that it is this one's file.
            try:
                os.unlink(self._path)
            except FileNotFoundError:
                pass
        os.close(self._descriptor)
