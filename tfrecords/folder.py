"""A folder that appears whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import tempfile
from types import TracebackType

from tfrecords import dataset_info, files
from tfrecords.errors import DataError
from tfrecords.fault import fault_point
from tfrecords.lock import Lock, LockHeld

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def lock_folder(path: str, kind: str = "data set") -> Lock:
    """Takes the lock that `WholeFolder` takes, for whoever writes a local folder in another way.

    Raises:
        DataError: If another process is making the same folder at this moment.
    """
    path = files.absolute(path)
    return _lock(*os.path.split(path), f"{kind} {path}")


def _lock(parent: str, name: str, what: str) -> Lock:
    lock = os.path.join(parent, f".{name}.lock")
    try:
        os.makedirs(parent, exist_ok=True)
        return Lock(lock)
    except LockHeld:
        raise DataError(
            f"Another process is writing the {what} at this moment; wait until it has ended."
        ) from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise DataError(f"The lock file {lock} is a link; remove it.") from error
        raise DataError(f"The folder {parent} cannot be written: {error.strerror}.") from error


class WholeFolder:
    """Work on a folder beside the one that is wanted, which takes its place when it is complete.

    The work happens in `.NAME.incomplete` next to `NAME`. `commit` renames it to `NAME`, after
    setting an earlier data set aside as `.NAME.replaced`, which is then removed. A process that
    dies leaves one of these hidden folders, which the next run for the same `NAME` removes, or
    renames back if the process died between the two renames. As a context manager it discards
    work that was not committed, and turns the error of a full disk into a sentence.

    Object stores have neither folders to rename nor locks. For a remote path the work happens in a
    folder of this user's own in the temporary directory (TMPDIR), named after the path, and
    `commit` uploads it: it removes the earlier marker first, writes the new one last, and removes
    what is left of the earlier files after that. Readers see a whole folder or one without its
    marker. Only processes of this machine are kept from writing the same path at once.

    Args:
        path: The folder that is wanted. It may be missing, empty, or of the same kind already.
        marker: The file by which a folder of this kind is known.
        kind: What the folder is, for messages.
        keep_work: Leave work that an earlier process did not finish, and leave this one's where the
            context manager ends with an exception; its maker goes on with it, or calls `discard`.

    Raises:
        DataError: If `path` exists and is neither empty nor of this kind, or if another process is
            making the same folder at this moment.
    """

    def __init__(
        self,
        path: str,
        marker: str = dataset_info.FILE_NAME,
        kind: str = "data set",
        keep_work: bool = False,
    ) -> None:
        self._path = files.absolute(path)
        self._marker, self._kind = marker, kind
        self._keep_work = keep_work
        self._remote = files.is_remote(path)
        if self._remote:
            parent = _own_temporary_folder()
            # Stores that are not Amazon's may each have a bucket of this name.
            place = f"{os.environ.get('S3_ENDPOINT', '')} {self._path}"
            name = hashlib.sha256(place.encode()).hexdigest()[:16]
        else:
            parent, name = os.path.split(self._path)
        self._replaced = os.path.join(parent, f".{name}.replaced")
        self.work = os.path.join(parent, f".{name}.incomplete")
        self._lock: Lock | None = _lock(parent, name, f"{kind} {self._path}")
        try:
            self._clear()
            self._check_target()
            os.makedirs(self.work, exist_ok=keep_work)
        except BaseException as error:
            self._unlock()
            if isinstance(error, OSError):
                raise DataError(
                    f"The folder {self.work} cannot be made: {error.strerror}."
                ) from error
            raise

    def _clear(self) -> None:
        if os.path.isdir(self._replaced) and not self._remote:
            if os.path.exists(self._path):
                shutil.rmtree(self._replaced)
            else:
                os.rename(self._replaced, self._path)
        if os.path.isdir(self.work) and not self._keep_work:
            shutil.rmtree(self.work)

    def _check_target(self) -> None:
        if not (files.exists(self._path) if self._remote else os.path.lexists(self._path)):
            return
        if not self._remote and os.path.islink(self._path):
            raise DataError(
                f"{self._path} is a link; the {self._kind} would replace it. Name the folder "
                "itself."
            )
        if not files.isdir(self._path):
            raise DataError(
                f"{self._path} is a file; the {self._kind} needs a folder of that name."
            )
        content = files.listdir(self._path)
        if content and self._marker not in content:
            raise DataError(
                f"The folder {self._path} is not empty and is no {self._kind} (it has no "
                f"{self._marker}), so it is not replaced. Name another folder."
            )

    def commit(self) -> None:
        """Puts the work in its place; from now on readers see it.

        Raises:
            DataError: If it cannot be uploaded.
        """
        if self._remote:
            self._upload()
            shutil.rmtree(self.work, ignore_errors=True)
            self._unlock()
            return
        for root, _, names in os.walk(self.work):
            for name in names:
                with open(os.path.join(root, name), "rb") as file:
                    os.fsync(file.fileno())
            files.sync_folder(root)
        if os.path.isdir(self._path):
            os.rename(self._path, self._replaced)
        fault_point("folder", 1)
        os.rename(self.work, self._path)
        # Else the names may be the earlier ones again after a power cut.
        files.sync_folder(os.path.dirname(self._path))
        fault_point("folder", 2)
        shutil.rmtree(self._replaced, ignore_errors=True)
        self._unlock()

    def _upload(self) -> None:
        marker = files.join(self._path, self._marker)
        before = files.walk(self._path) if files.isdir(self._path) else []
        new = files.walk(self.work)
        if self._marker in before:
            files.remove(marker)
        try:
            files.copy_all(
                [
                    (files.join(self.work, name), files.join(self._path, name))
                    for name in new
                    if name != self._marker
                ]
            )
            files.copy(files.join(self.work, self._marker), marker)
        except (DataError, OSError) as error:
            gone = f", and an earlier {self._kind} there is gone" if before else ""
            raise DataError(
                f"The {self._kind} could not be uploaded to {self._path} whole{gone}: {error}"
            ) from error
        for name in sorted(set(before) - set(new)):
            files.remove(files.join(self._path, name))

    def discard(self) -> None:
        """Removes the work, unless it is committed; an earlier data set stays as it was."""
        if self._lock is not None:
            shutil.rmtree(self.work, ignore_errors=True)
            self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.release(remove=True)
            self._lock = None

    def __enter__(self) -> WholeFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._keep_work and error is not None:
            self._unlock()
            if isinstance(error, OSError) and error.errno in _FULL:
                raise DataError(
                    f"There is no room left for {self._path} ({error.strerror}). An earlier "
                    f"{self._kind} is intact, and what was done of the new one is kept in "
                    f"{self.work}: make room and run the same command again, which goes on from "
                    "there, or remove that folder."
                ) from error
            return
        self.discard()
        if isinstance(error, OSError) and error.errno in _FULL:
            raise DataError(
                f"There is no room left for {self._path} ({error.strerror}). Nothing was changed: "
                f"what had been written of the new {self._kind} is removed, an earlier one is "
                "intact."
            ) from error


def _own_temporary_folder() -> str:
    """A folder of the temporary directory that only this user can read and write.

    Raises:
        DataError: If it cannot be made, or another user could write it.
    """
    path = os.path.join(tempfile.gettempdir(), f"tf_dlrm-{os.getuid()}")
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        status = os.lstat(path)
    except OSError as error:
        raise DataError(
            f"The folder {path} for temporary files cannot be made: {error.strerror}. Set TMPDIR "
            "to a folder that can be written."
        ) from error
    if (
        not stat.S_ISDIR(status.st_mode)
        or status.st_uid != os.getuid()
        or stat.S_IMODE(status.st_mode) & 0o077
    ):
        raise DataError(
            f"{path} is no folder of this user alone, so what is written there could be changed by "
            "others. Remove it, or set TMPDIR to another folder."
        )
    return path
