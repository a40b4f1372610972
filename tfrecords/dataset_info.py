"""`dataset.json`: what a data set folder holds, and the checks that it is all there."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from typing import Any

import numpy as np

from tfrecords import files, json_values
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

    def __post_init__(self) -> None:
        json_values.a_path_inside("The path of a file", self.path)
        where = f"of the file {self.path!r}"
        json_values.a_count(f"rows {where}", self.rows, 1)
        json_values.a_count(f"size {where}", self.size, 1)
        json_values.a_crc(f"crc32c {where}", self.crc32c)
        if not self.offsets or self.offsets[0] != 0:
            raise DataError(f"offsets {where} must begin with 0.")
        before = -1
        for offset in self.offsets:
            json_values.a_count(f"An offset {where}", offset)
            if not before < offset < self.size:
                raise DataError(
                    f"The offsets {where} must ascend and be below its size {self.size}, but "
                    f"{offset} follows {before}."
                )
            before = offset


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

    def __post_init__(self) -> None:
        json_values.a_path_inside("The path of a vocabulary", self.path)
        where = f"of the vocabulary {self.path!r}"
        for name in ("reserved", "values", "size"):
            json_values.a_count(f"{name} {where}", getattr(self, name))
        json_values.a_crc(f"crc32c {where}", self.crc32c)


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """The content of `dataset.json`.

    It holds no times and no absolute paths, so equal input and equal options give equal bytes.

    Attributes:
        schema: The columns.
        splits: "train" and "evaluation" (or others) to their rows.
        how_it_was_made: Every option, the input files, and what was done to the values, for people
            and for `tfrecords.conversion.meanings` to read.
        vocabularies: The values of those categorical columns that have a vocabulary.
    """

    schema: Schema
    splits: dict[str, SplitInfo]
    how_it_was_made: dict[str, Any]
    vocabularies: dict[str, VocabularyInfo] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.splits:
            if not name.isidentifier():
                raise DataError(
                    f"The name of a split must be plain, not {json_values.shown(name)}."
                )
        for name in self.vocabularies:
            if name not in self.schema.categorical_names:
                raise DataError(f"The vocabulary {name!r} is of no column of the schema.")

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
        for vocabulary in info.vocabularies.values():
            json_values.no_link(data_dir, vocabulary.path)
        for name, split in info.splits.items():
            paths = [files.join(data_dir, file.path) for file in split.files]
            for path, file, size in zip(paths, split.files, files.sizes(paths), strict=True):
                json_values.no_link(data_dir, file.path)
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
            value = json_values.parse(files.read_bytes(path), path, "Convert the data again.")
        except FileNotFoundError:
            raise DataError(
                f"The folder {data_dir!r} is no data set: it has no {FILE_NAME}. Make one with "
                "`python -m tfrecords.convert_criteo` or `python -m tfrecords.random`."
            ) from None
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
        except DataError as error:
            raise DataError(f"{path} cannot be used: {error} Convert the data again.") from error
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path} cannot be used: a part is missing, unknown or of a wrong type "
                f"({json_values.shown(error)}). Convert the data again."
            ) from error


def _split_from_json(value: dict[str, Any]) -> SplitInfo:
    split = SplitInfo(**{**value, "files": tuple(file_from_json(file) for file in value["files"])})
    json_values.a_count("rows of a split", split.rows)
    json_values.a_count("rows_per_record", split.rows_per_record, 1)
    # A label that is NaN is found where it stands.
    if split.label_sum == split.label_sum:
        # Labels of 32 bits, added up in some order.
        json_values.a_number("label_sum", split.label_sum, 0, split.rows * (1 + 1e-6))
    of_files = [file.rows for file in split.files]
    if sum(of_files) != split.rows:
        raise DataError(f"A split has {split.rows} rows, but its files have {sum(of_files)}.")
    for number, file in enumerate(split.files):
        records, whole = len(file.offsets), number < len(split.files) - 1
        if (
            whole
            and file.rows != records * split.rows_per_record
            or (not whole and records != -(-file.rows // split.rows_per_record))
        ):
            raise DataError(
                f"The file {file.path!r} has {file.rows} rows and {records} records, which does "
                f"not fit {split.rows_per_record} rows to a record."
            )
    return split


def file_from_json(value: dict[str, Any]) -> FileInfo:
    """The inverse of `dataclasses.asdict`.

    Raises:
        DataError: If a value is not allowed.
        KeyError, TypeError: If a part is missing or not known.
    """
    return FileInfo(**{**value, "offsets": tuple(value["offsets"])})


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
