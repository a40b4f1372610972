"""A file that appears whole or not at all."""

from __future__ import annotations

import os

from tfrecords import files
from tfrecords.errors import DataError


def write_whole(path: str, content: bytes) -> None:
    """Writes a file, in a new folder where need be; readers see the earlier one or all of it.

    Raises:
        DataError: If the file cannot be written; an earlier one is as it was.
    """
    try:
        folder = os.path.dirname(path)
        if folder:
            files.makedirs(folder)
        files.write_bytes(path, content)
    except OSError as error:
        raise DataError(f"The file {path} cannot be written: {error.strerror or error}.") from error
