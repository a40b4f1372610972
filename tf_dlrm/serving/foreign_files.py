"""Folders that may come from elsewhere: what is in them is checked before it is used."""

from __future__ import annotations

import json
import os
import stat
from typing import Any

from tf_dlrm.errors import UserError
from tfrecords import files

# Descriptions have some kilobytes, and some hundred for thousands of columns.
_MOST_BYTES = 1 << 26


def files_of(folder: str) -> list[str]:
    """Returns the paths of all files of a folder, relative to it.

    Raises:
        UserError: If something in it is neither a file nor a folder. Links lead outside, so they
            are not followed, and devices and pipes may never end.
        OSError: If it can't be read.
    """
    if files.is_remote(folder):  # object stores have no links
        return files.walk(folder)
    found, folder = [], files.local(folder)
    for root, folders, names in os.walk(folder, onerror=_raise):
        for name in [*folders, *names]:
            path = os.path.join(root, name)
            mode = os.lstat(path).st_mode
            if stat.S_ISREG(mode):
                found.append(os.path.relpath(path, folder))
            elif not stat.S_ISDIR(mode):
                kind = "a link" if stat.S_ISLNK(mode) else "no regular file"
                raise UserError(f"{path} is {kind}, so it is not read; put the file itself there.")
    return sorted(found)


def _raise(error: OSError) -> None:
    raise error


def read_description(path: str) -> dict[str, Any]:
    """Returns the JSON object that a file holds.

    Raises:
        ValueError: If it holds something else; the message is a clause.
        OSError: If it can't be read.
    """
    size = files.size(path)
    if size > _MOST_BYTES:
        raise ValueError(f"{path} has {size} bytes, more than any description")
    try:
        description = json.loads(files.read_bytes(path))
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(description, dict):
        raise ValueError(f"{path} holds no JSON object")
    return description


def whole_number(description: dict[str, Any], name: str) -> int:
    """Returns an entry of a description that is a whole number of at least 0.

    Raises:
        ValueError: If it is missing or something else; the message is a clause.
    """
    value = description.get(name)
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"its {name!r} is {value!r}, no whole number of at least 0")
    return value
