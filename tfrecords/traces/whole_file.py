"""A file that appears whole or not at all."""

from __future__ import annotations

import os
import tempfile

from tfrecords.errors import DataError


def write_whole(path: str, content: bytes) -> None:
    """Writes a file beside its place and renames it there; an earlier one stays until then.

    Raises:
        DataError: If the file cannot be written; an earlier one is as it was.
    """
    folder, name = os.path.split(os.path.abspath(path))
    temporary = None
    try:
        os.makedirs(folder, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=folder)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner may read.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise DataError(f"The file {path} cannot be written: {error.strerror}.") from error
        raise
