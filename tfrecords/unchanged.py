"""Input files that must stay as they are while they are read."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence

from tfrecords import files
from tfrecords.errors import DataError
from tfrecords.input_files import file_info


@dataclasses.dataclass(frozen=True)
class FileState:
    """What tells a file from another one, or from itself before a change, without reading it.

    Attributes:
        path: The file.
        size: Its size in bytes.
        time: When it was last written, in nanoseconds since 1970.
        inode: Its number in its file system, which changes when another file takes its name; 0
            where there is none.
    """

    path: str
    size: int
    time: int
    inode: int

    @classmethod
    def of(cls, path: str) -> FileState:
        """The state of a file at this moment.

        Raises:
            DataError: If it is missing or no file.
        """
        if files.is_remote(path):
            info = file_info(path)
            if not info.is_file:
                raise DataError(f"The input file {path!r} does not exist or is no file.")
            return cls(path, info.size, info.mtime_ns or 0, 0)
        if not os.path.isfile(path):
            raise DataError(f"The input file {path!r} does not exist or is no file.")
        status = os.stat(path)
        return cls(path, status.st_size, status.st_mtime_ns, status.st_ino)


def check_unchanged(
    states: Sequence[FileState], state_of: Callable[[str], FileState] = FileState.of
) -> None:
    """Checks that files are what they were before they were read.

    Args:
        states: What they were.
        state_of: Looks at a file once more; for paths of other file systems.

    Raises:
        DataError: If one was changed, replaced or removed, since rows would be lost or doubled.
    """
    for before in states:
        try:
            now = state_of(before.path)
        except DataError:
            raise DataError(_sentence(before, "is gone")) from None
        if now.size != before.size:
            raise DataError(_sentence(before, f"has {now.size} bytes, where it had {before.size}"))
        if now.inode != before.inode:
            raise DataError(_sentence(before, "is another file of the same name"))
        if now.time != before.time:
            raise DataError(_sentence(before, "was written to"))


def _sentence(before: FileState, what: str) -> str:
    return (
        f"The input file {before.path} changed while it was read: it {what}. Rows may be missing, "
        "so nothing is made of it. Run the command again once nothing writes the file any more."
    )
