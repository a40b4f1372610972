"""`dataset.json`: what a data set folder holds, and the checks that it is all there."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from typing import Any

import numpy as np

from tfrecords import files
from tfrecords.errors import DataError
from tfrecords.schema import Schema

FILE_NAME = "dataset.json"
FORMAT = "tf_dlrm block records"
VERSION = 1


@dataclasses.dataclass(frozen=True)
class FileInfo:
    """One file of records.

    Attributes:
        path: Path relative to the folder.
        rows: Number of rows in it.
        size: Size in bytes.
        crc32c: CRC-32C of the whole file, eight hex digits.
        offsets: Byte at which each record begins.
    """

    path: str
    rows: int
    size: int
    crc32c: str
    offsets: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class SplitInfo:
    """The rows of one split, for example "train".

    Attributes:
        rows: Number of rows.
        label_sum: Sum of the labels; over `rows` it is the base rate.
        rows_per_record: Rows in every record but the last of the split, which may have fewer.
        files: The files, in order.
    """

    rows: int
    label_sum: float
    rows_per_record: int
    files: tuple[FileInfo, ...]

    @property
    def record_rows(self) -> np.ndarray:
        """Number of rows of each record of the split, in order, int64."""
        records = sum(len(file.offsets) for file in self.files)
        rows: np.ndarray = np.full(records, self.rows_per_record, np.int64)
        if records:
            rows[-1] = self.rows - self.rows_per_record * (records - 1)
        return rows


@dataclasses.dataclass(frozen=True)
class VocabularyInfo:
    """The values that the ids of a categorical column stand for.

    Attributes:
        path: A file of NumPy's format, relative to the folder: uint64 keys in the order of their
            ids.
        reserved: The id of the first key; the ones below it stand for no value.
        values: Number of keys.
        size: Size in bytes.
        crc32c: CRC-32C of the whole file, eight hex digits.
    """

    path: str
    reserved: int
    values: int
    size: int
    crc32c: str


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """The content of `dataset.json`.

    It holds no times and no absolute paths, so equal input and equal options give equal bytes.

    Attributes:
        schema: The columns.
        splits: "train" and "evaluation" (or others) to their rows.
        how_it_was_made: Every option, the input files, and what was done to the values, for people
            to read.
        vocabularies: The values of those categorical columns that have a vocabulary.
    """

    schema: Schema
    splits: dict[str, SplitInfo]
    how_it_was_made: dict[str, Any]
    vocabularies: dict[str, VocabularyInfo] = dataclasses.field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """The file's content."""
        splits = {}
        for name, split in self.splits.items():
            splits[name] = dataclasses.asdict(split)
        value: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "schema": self.schema.to_json(),
            "splits": splits,
            "how_it_was_made": self.how_it_was_made,
        }
        if self.vocabularies:
            value["vocabularies"] = {
                name: dataclasses.asdict(vocabulary)
                for name, vocabulary in self.vocabularies.items()
            }
        return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode("utf-8")

    @property
    def fingerprint(self) -> str:
        """Changes whenever the content changes (the checksums of the files are part of it)."""
        return hashlib.sha256(self.to_bytes()).hexdigest()[:32]

    @classmethod
    def load(cls, data_dir: str) -> DatasetInfo:
        """Reads `dataset.json` and checks that the files it lists are there, whole.

        Args:
            data_dir: The folder.

        Raises:
            DataError: If the folder or `dataset.json` is missing, cannot be read, is of another
                version, or a listed file is missing or has another size. (The content of the files
                is checked while reading, and by `python -m tfrecords.inspect`.)
        """
        info = cls.load_description(data_dir)
        for name, split in info.splits.items():
            paths = [files.join(data_dir, file.path) for file in split.files]
            for path, file, size in zip(paths, split.files, files.sizes(paths), strict=True):
                if size is None:
                    raise DataError(
                        f"The file {path} of the split {name!r} is missing, although {FILE_NAME} "
                        "lists it. Convert the data again."
                    )
                if size != file.size:
                    raise DataError(
                        f"The file {path} of the split {name!r} has {size} bytes, where "
                        f"{FILE_NAME} says {file.size}: it is "
                        f"{'truncated' if size < file.size else 'too long'}. "
                        "Convert the data again."
                    )
        return info

    @classmethod
    def load_description(cls, data_dir: str) -> DatasetInfo:
        """Reads `dataset.json` without looking at the files that it lists.

        Raises:
            DataError: As `load`, but for the files.
        """
        path = files.join(data_dir, FILE_NAME)
        if not files.isdir(data_dir):
            raise DataError(f"There is no data set folder {data_dir!r}.{_set_aside(data_dir)}")
        try:
            value = json.loads(files.read_bytes(path).decode("utf-8"))
        except FileNotFoundError:
            raise DataError(
                f"The folder {data_dir!r} is no data set: it has no {FILE_NAME}. Make one with "
                "`python -m tfrecords.convert_criteo` or `python -m tfrecords.random`."
            ) from None
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise DataError(f"{path} is not JSON: {error}. Convert the data again.") from error
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise DataError(f"{path} does not describe a data set: its 'format' is not {FORMAT!r}.")
        if value.get("version") != VERSION:
            raise DataError(
                f"{path} is of format version {value.get('version')!r}; this program reads version "
                f"{VERSION}. Convert the data again."
            )
        try:
            return cls(
                schema=Schema.from_json(value["schema"]),
                splits={name: _split_from_json(split) for name, split in value["splits"].items()},
                how_it_was_made=value["how_it_was_made"],
                vocabularies={
                    name: VocabularyInfo(**vocabulary)
                    for name, vocabulary in value.get("vocabularies", {}).items()
                },
            )
        except (KeyError, TypeError, AttributeError, DataError) as error:
            raise DataError(f"{path} cannot be used: {error}") from error


def _split_from_json(value: dict[str, Any]) -> SplitInfo:
    files = tuple(
        FileInfo(**{**file, "offsets": tuple(file["offsets"])}) for file in value["files"]
    )
    return SplitInfo(**{**value, "files": files})


def _set_aside(data_dir: str) -> str:
    if files.is_remote(data_dir):
        return ""
    parent, name = os.path.split(files.absolute(data_dir))
    aside = os.path.join(parent, f".{name}.replaced")
    if not os.path.isdir(aside):
        return ""
    return (
        " A run that was stopped while it replaced the folder left the earlier data set in "
        f"{aside!r}; run the conversion again, or rename it back."
    )
