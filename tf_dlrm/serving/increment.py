"""What changed between two exports of one model: small enough to be shipped often."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from tf_dlrm.errors import UserError, first_line
from tf_dlrm.serving.foreign_files import files_of, read_description, whole_number
from tf_dlrm.serving.variable_files import VARIABLES, CheckpointRows, Rows, replace_variables
from tfrecords.errors import DataError
from tfrecords.folder import WholeFolder
from tfrecords.record_format import read_records

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

    Returns:
        `export_dir`, `step` and `changed_rows`.

    Raises:
        UserError: if the increment is of another base, or damaged, or the folder can't be written.
    """
    description = _read(increment)
    files_of(base)
    if fingerprint(base) != description.base:
        raise UserError(
            f"--increment={increment} was made from another SavedModel than --base={base}."
        )
    what = "The increment can't be folded into"
    with written_whole(export_dir, "saved_model.pb", "SavedModel", what) as folder:
        _fold_into(folder.work, base, increment, description)
        _check_unchanged(base, description.base)
    changed = sum(description.changed_rows.values())
    return {"export_dir": export_dir, "step": description.step, "changed_rows": changed}


@contextlib.contextmanager
def written_whole(export_dir: str, marker: str, kind: str, what: str) -> Iterator[WholeFolder]:
    """Gives a folder that takes its place once all is written, or leaves what was there before.

    Args:
        export_dir: Its place.
        marker: The file by which what is written is known.
        kind: What that is.
        what: How the sentence begins if that fails.

    Raises:
        UserError: if it can't be written, or something else is there.
    """
    try:
        with WholeFolder(export_dir, marker, kind) as folder:
            yield folder
            folder.commit()
    except (tf.errors.OpError, OSError) as error:
        raise UserError(
            f"{what} {export_dir} ({first_line(error)}); what was there before is unchanged."
        ) from error
    except DataError as error:
        raise UserError(f"--export_dir={export_dir}: {error}") from error


def fold_into(folder: str, base: str, increment: str) -> None:
    """Makes the whole SavedModel in an empty folder, of a base and an increment that fit.

    Raises:
        UserError: if the increment does not hold what it should.
    """
    _fold_into(folder, base, increment, _read(increment))


def _fold_into(folder: str, base: str, increment: str, description: _Description) -> None:
    shutil.copytree(os.path.join(increment, GRAPH), folder, symlinks=True, dirs_exist_ok=True)
    before, graph = open_variables(base), open_variables(folder)
    # The variables that the graph has without rows, and one of the base for each.
    wanted = {key: shape for key, shape in graph.shapes.items() if shape[:1] == (0,)}
    for key in {**wanted, **description.changed_rows}:
        same = key in wanted and before.shapes.get(key, ())[1:] == wanted[key][1:]
        if not same or before.dtypes.get(key) != graph.dtypes[key]:
            raise _unfit(increment, f"its table {key} is not in its graph, or not as in the base")
        if key not in description.changed_rows:
            raise _unfit(increment, f"its graph has a table {key}, of which it has no rows")
    path = os.path.join(increment, _ROWS)
    try:
        with open(path, "rb") as file:
            records = (record for _, record in read_records(file))
            rows = {
                key: Rows(
                    before.shapes[key],
                    before.dtypes[key],
                    _Folded(before, key, description.changed_rows[key], records).read,
                )
                for key in description.changed_rows
            }
            replace_variables(folder, rows)
            if next(records, None) is not None:
                raise ValueError("it has more rows than its tables")
    except (ValueError, OverflowError, MemoryError) as error:  # the latter of huge records
        raise _unfit(increment, f"{path}: {first_line(error)}") from error


def _unfit(increment: str, reason: str) -> UserError:
    return UserError(f"--increment={increment} is damaged, or somebody has edited it: {reason}.")


class _Folded:
    """The pieces of one table with its changed rows, read in order."""

    def __init__(
        self, before: CheckpointRows, key: str, changed: int, records: Iterator[bytes]
    ) -> None:
        self._before, self._key, self._records = before, key, records
        self._left = changed

    def read(self, start: int, count: int) -> np.ndarray:
        """Returns `count` rows from row `start` on.

        Raises:
            ValueError: If the next record is not that of these rows; the message is a clause.
        """
        rows = self._before.read(self._key, start, count)
        record = next(self._records, None)
        if record is None:
            raise ValueError("it ends before all tables have their rows")
        places, new = _changes(record, self._key, start, rows)
        if len(places) and (places[0] < 0 or places[-1] >= count or np.any(np.diff(places) < 1)):
            raise ValueError(f"places of rows of {self._key} are not in order within its rows")
        self._left -= len(places)
        if self._left < 0 or (self._left and start + count == self._before.shapes[self._key][0]):
            raise ValueError(f"it has not as many rows of {self._key} as {INCREMENT} says")
        if self._before.dtypes[self._key].is_floating:
            if not np.isfinite(new.astype(np.float32)).all():
                raise ValueError(f"rows of {self._key} hold numbers that are not finite")
        rows[places] = new
        return rows


def _changes(record: bytes, key: str, start: int, rows: np.ndarray) -> tuple[np.ndarray, Any]:
    """Returns the places within a piece and the new rows that a record of `_record` holds."""
    try:
        feature = tf.train.Example.FromString(record).features.feature
        (table,), (at,) = feature["table"].bytes_list.value, feature["start"].int64_list.value
        (places,), (new,) = feature["places"].bytes_list.value, feature["rows"].bytes_list.value
        numbers = np.frombuffer(places, "<i8")
        changed = np.frombuffer(new, rows.dtype).reshape(len(numbers), *rows.shape[1:])
    except (DecodeError, ValueError) as error:
        raise ValueError(f"a record is none of changed rows ({first_line(error)})") from error
    if (table.decode(errors="replace"), at) != (key, start):
        raise ValueError(f"a record is not that of the rows of {key} from {start} on")
    return numbers, changed


class _Description(NamedTuple):
    """What `increment.json` says.

    Attributes:
        base: Fingerprint of the SavedModel that the increment was made from.
        step: Training step.
        changed_rows: Number of rows by table.
    """

    base: str
    step: int
    changed_rows: dict[str, int]


def _read(increment: str) -> _Description:
    """Returns what an increment says of itself.

    Raises:
        UserError: if it is none, or its files are not those that it was written with.
    """
    try:
        description = read_description(os.path.join(increment, INCREMENT))
        if description.get("format") != _FORMAT:
            raise ValueError(
                f"it has the format {description.get('format')!r}; this program reads {_FORMAT}"
            )
        base = description.get("base")
        if not isinstance(base, str):
            raise ValueError(f"its 'base' is {base!r}, no fingerprint")
        step = whole_number(description, "step")
        changed = description.get("changed_rows")
        if not isinstance(changed, dict):
            raise ValueError(f"its 'changed_rows' is {changed!r}, no number for each table")
        changed = {key: whole_number(changed, key) for key in changed}
        checksums = description.get("checksums")
        if not isinstance(checksums, dict):
            raise ValueError(f"its 'checksums' is {checksums!r}, no text for each file")
        found = set(files_of(increment)) - {INCREMENT}
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"--increment={increment} is no increment: {first_line(error)}.") from error
    for name in sorted(found - set(checksums)):
        raise _unfit(increment, f"{name} is no file of it")
    # One increment's description with another's rows would be a model that never was.
    computed = _checksums(increment)
    for name, checksum in checksums.items():
        if computed.get(name) != checksum:
            raise UserError(
                f"{name} of --increment={increment} is missing, damaged or of another one."
            )
    return _Description(base, step, changed)


def _checksums(increment: str) -> dict[str, str]:
    """Returns the SHA-256 of each file of an increment but its description."""
    checksums = {}
    for name in files_of(increment):
        if name != INCREMENT:
            digest = hashlib.sha256()
            with open(os.path.join(increment, name), "rb") as file:
                while piece := file.read(1 << 20):
                    digest.update(piece)
            checksums[name] = digest.hexdigest()
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
