"""What changed between two exports of one model: small enough to be shipped often."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tf_dlrm.errors import UserError, first_line
from tf_dlrm.serving.variable_files import VARIABLES, CheckpointRows, Rows, replace_variables
from tfrecords.errors import DataError
from tfrecords.folder import WholeFolder

# The file by which an increment is known.
INCREMENT = "increment.json"
_FORMAT = 1
# The new SavedModel, all of it but the rows of its tables.
GRAPH = "saved_model"
# A tf.train.Example for each piece of each table, in order: the changed rows of the piece.
_ROWS = "rows.tfrecord"


def write_increment(folder: str, base: str, content: Mapping[str, Rows], step: int) -> None:
    """Writes what of the tables of a SavedModel is not in an earlier one.

    Args:
        folder: Where to write; the new SavedModel with empty tables is its subfolder `GRAPH`.
        base: The earlier SavedModel.
        content: The tables of the new one by key.
        step: Its training step.

    Raises:
        UserError: if the two do not have the same tables.
    """
    identity = fingerprint(base)
    before = open_variables(base)
    for key, rows in content.items():
        if before.shapes.get(key) != rows.shape or before.dtypes.get(key) != rows.dtype:
            raise UserError(
                f"--incremental_from={base} has other tables than this model (other sizes, or "
                "another --table_dtype), so there is no increment between them; export in full."
            )
    changed = {}
    with tf.io.TFRecordWriter(os.path.join(folder, _ROWS)) as out:
        for key, rows in content.items():
            changed[key] = 0
            for start, count in rows.pieces():
                new, old = rows.read(start, count), before.read(key, start, count)
                # Bytes are compared, since a NaN is not equal to itself.
                differ = (_bytes_of(new) != _bytes_of(old)).any(1)
                places = np.flatnonzero(differ)
                changed[key] += len(places)
                out.write(_record(key, start, places, new[places]))
    _check_unchanged(base, identity)
    description = {
        "format": _FORMAT,
        "base": identity,
        "checksums": _checksums(folder),
        "step": step,
        "changed_rows": changed,
    }
    with open(os.path.join(folder, INCREMENT), "w", encoding="utf-8") as file:
        json.dump(description, file, indent=1)


def fold(base: str, increment: str, export_dir: str) -> dict[str, Any]:
    """Makes the whole SavedModel of an earlier one and an increment.

    Tables are read and written piece by piece. The result is what a full export would have been.

    Args:
        base: The SavedModel that the increment was made from.
        increment: The increment.
        export_dir: Folder of the SavedModel to write.

    Returns:
        `export_dir`, `step` and `changed_rows`.

    Raises:
        UserError: if the increment is of another base, or damaged, or the folder can't be written.
    """
    description = _read(increment)
    if fingerprint(base) != description["base"]:
        raise UserError(
            f"--increment={increment} was made from another SavedModel than --base={base}."
        )
    step, changed = description["step"], sum(description["changed_rows"].values())
    try:
        with WholeFolder(export_dir, "saved_model.pb", "SavedModel") as folder:
            fold_into(folder.work, base, increment)
            _check_unchanged(base, description["base"])
            folder.commit()
    except (tf.errors.OpError, OSError) as error:
        raise UserError(
            f"The increment can't be folded into {export_dir} ({first_line(error)}); what was "
            "there before is unchanged."
        ) from error
    except DataError as error:
        raise UserError(f"--export_dir={export_dir}: {error}") from error
    return {"export_dir": export_dir, "step": step, "changed_rows": changed}


def fold_into(folder: str, base: str, increment: str) -> None:
    """Makes the whole SavedModel in an empty folder, of a base and an increment that fit."""
    shutil.copytree(os.path.join(increment, GRAPH), folder, dirs_exist_ok=True)
    keys = list(_read(increment)["changed_rows"])
    before = open_variables(base)
    records = iter(tf.data.TFRecordDataset(os.path.join(increment, _ROWS)))
    replace_variables(
        folder,
        {
            key: Rows(before.shapes[key], before.dtypes[key], _Folded(before, key, records).read)
            for key in keys
        },
    )


class _Folded:
    """The pieces of one table with its changed rows, read in order."""

    def __init__(self, before: CheckpointRows, key: str, records: Iterator[tf.Tensor]) -> None:
        self._before, self._key, self._records = before, key, records

    def read(self, start: int, count: int) -> np.ndarray:
        """Returns `count` rows from row `start` on."""
        rows = self._before.read(self._key, start, count)
        feature = tf.train.Example.FromString(next(self._records).numpy()).features.feature
        if (
            feature["table"].bytes_list.value[0].decode() != self._key
            or feature["start"].int64_list.value[0] != start
        ):
            raise OSError(f"{_ROWS} is not that of this increment")
        places = np.frombuffer(feature["places"].bytes_list.value[0], "<i8")
        new = np.frombuffer(feature["rows"].bytes_list.value[0], rows.dtype)
        rows[places] = new.reshape(len(places), *rows.shape[1:])
        return rows


def _read(increment: str) -> dict[str, Any]:
    """Returns what an increment says of itself.

    Raises:
        UserError: if it is none, or its files are not those that it was written with.
    """
    try:
        with open(os.path.join(increment, INCREMENT), encoding="utf-8") as file:
            description: dict[str, Any] = json.load(file)
        if description["format"] != _FORMAT:
            raise UserError(
                f"--increment={increment} has the format {description['format']!r}; this program "
                f"reads {_FORMAT}."
            )
        # One increment's description with another's rows would be a model that never was.
        found = _checksums(increment)
        for name, checksum in description["checksums"].items():
            if found.get(name) != checksum:
                raise UserError(
                    f"{name} of --increment={increment} is missing, damaged or of another one."
                )
        for entry in ("base", "step", "changed_rows"):
            description[entry]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"--increment={increment} is no increment ({error!r}).") from error
    return description


def _checksums(increment: str) -> dict[str, str]:
    """Returns the SHA-256 of each file of an increment but its description."""
    checksums = {}
    for root, _, names in os.walk(increment):
        for name in names:
            path = os.path.join(root, name)
            relative = os.path.relpath(path, increment)
            if relative == INCREMENT:
                continue
            digest = hashlib.sha256()
            with open(path, "rb") as file:
                while piece := file.read(1 << 20):
                    digest.update(piece)
            checksums[relative] = digest.hexdigest()
    return checksums


def _check_unchanged(base: str, identity: str) -> None:
    if fingerprint(base) != identity:
        raise UserError(f"{base} was replaced while it was read; nothing was written.")


def open_variables(saved_model: str) -> CheckpointRows:
    """Returns the variables of a SavedModel.

    Raises:
        UserError: if it has none.
    """
    try:
        return CheckpointRows(os.path.join(saved_model, VARIABLES))
    except (tf.errors.OpError, ValueError) as error:
        raise UserError(
            f"{saved_model} is no SavedModel whose variables can be read ({first_line(error)})."
        ) from error


def fingerprint(saved_model: str) -> str:
    """Returns a text that differs where the variables of two SavedModels differ.

    Raises:
        UserError: if it has no variables.
    """
    try:
        with open(os.path.join(saved_model, VARIABLES) + ".index", "rb") as file:
            # It has a checksum of every tensor.
            return hashlib.sha256(file.read()).hexdigest()
    except OSError as error:
        raise UserError(f"{saved_model} is no SavedModel with variables: {error}.") from error


def _bytes_of(rows: np.ndarray) -> np.ndarray:
    """Returns rows as bytes [rows, bytes of a row]."""
    return np.ascontiguousarray(rows).reshape(len(rows), -1).view(np.uint8)


def _record(key: str, start: int, places: np.ndarray, rows: np.ndarray) -> bytes:
    def data(value: bytes) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    features = {
        "table": data(key.encode()),
        "start": tf.train.Feature(int64_list=tf.train.Int64List(value=[start])),
        "places": data(places.astype("<i8").tobytes()),
        "rows": data(rows.tobytes()),
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return bytes(example.SerializeToString())
