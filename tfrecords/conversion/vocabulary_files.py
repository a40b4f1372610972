"""The files of a data set that hold the values of its columns, in the order of their ids."""

from __future__ import annotations

import os
import urllib.parse
from typing import IO

import numpy as np

from tfrecords.dataset_info import VocabularyInfo
from tfrecords.verify import file_crc

FOLDER = "vocabulary"


def file_name(name: str) -> str:
    """The file of the column `name`, relative to the data set folder."""
    return f"{FOLDER}/{urllib.parse.quote(name, safe='')}.npy"


def write_keys(file: IO[bytes], keys: np.ndarray) -> None:
    """Writes keys (uint64, in the order of their ids) in NumPy's format."""
    np.lib.format.write_array(file, keys.astype("<u8", copy=False), (1, 0), allow_pickle=False)


def write_vocabulary(folder: str, name: str, keys: np.ndarray, reserved: int) -> VocabularyInfo:
    """Writes a vocabulary.

    Args:
        folder: The data set folder.
        name: Name of the column.
        keys: uint64, in the order of their ids.
        reserved: The id of the first key.
    """
    path = file_name(name)
    whole = os.path.join(folder, path)
    os.makedirs(os.path.dirname(whole), exist_ok=True)
    with open(whole, "wb") as file:
        write_keys(file, keys)
    return VocabularyInfo(path, reserved, len(keys), os.path.getsize(whole), file_crc(whole))


def read_vocabulary(folder: str, info: VocabularyInfo) -> np.ndarray | None:
    """The keys, or None if the file is not what it was, or is no vocabulary."""
    path = os.path.join(folder, info.path)
    try:
        if os.path.getsize(path) != info.size or file_crc(path) != info.crc32c:
            return None
        with open(path, "rb") as file:
            # Reads no pickle and no archive, whatever the file holds.
            keys: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return keys if keys.dtype == np.uint64 and keys.shape == (info.values,) else None
