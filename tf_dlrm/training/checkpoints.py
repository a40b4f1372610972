"""Checkpoints: whole or none, only of finite weights, and only into the run they belong to."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from typing import Any

import tensorflow as tf

from tf_dlrm.errors import UserError, first_line
from tf_dlrm.training.distribution.processes import Processes
from tf_dlrm.training.distribution.sharded_checkpoint import ShardedCheckpoint
from tf_dlrm.training.options.config import TrainingConfig
from tfrecords import files
from tfrecords.conversion.meanings import Meaning
from tfrecords.fault import fault_point
from tfrecords.schema import Schema

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Position:
    """How far training has come: whole `epochs` done, `row` rows into the next, `step` updates."""

    step: int = 0
    epoch: int = 0
    row: int = 0


class Checkpoints:
    """Writes and restores the checkpoints of one model directory.

    Args:
        model_dir: The run's folder; checkpoints are in its subfolder `checkpoints`.
        keep: Number of newest checkpoints that are kept.
        processes: Those that write it together; by default just this one.
        trackables: What a checkpoint holds, by name, beside the position.
    """

    def __init__(
        self,
        model_dir: str,
        keep: int,
        processes: Processes | None = None,
        **trackables: Any,
    ) -> None:
        self._processes = processes or Processes(tf.distribute.get_strategy())
        self.folder = checkpoint_folder(model_dir)
        newest_checkpoint(model_dir)  # else the manager would begin anew in a damaged folder
        self._position = {
            field.name: tf.Variable(0, dtype=tf.int64, trainable=False)
            for field in dataclasses.fields(Position)
        }
        self._checkpoint = ShardedCheckpoint(self._processes, position=self._position, **trackables)
        self._manager = None
        self._latest = tf.train.latest_checkpoint(self.folder)
        if self._processes.is_first:
            self._manager = tf.train.CheckpointManager(
                self._checkpoint, self.folder, max_to_keep=keep, checkpoint_name="checkpoint"
            )
        self._processes.check_equal({"the newest checkpoint in --model_dir": str(self._latest)})

    @property
    def latest(self) -> str | None:
        """Path prefix of the newest whole checkpoint, or None."""
        return self._latest

    def save(self, position: Position) -> None:
        """Writes a checkpoint; older ones stay until it is whole.

        Raises:
            UserError: if it can't be written, for example on a full disk.
        """
        for name, variable in self._position.items():
            variable.assign(getattr(position, name))
        path = files.join(self.folder, f"checkpoint-{position.step}")
        try:
            if self._manager:
                self._manager.save(checkpoint_number=position.step)
            else:  # the first process keeps the list of checkpoints
                self._checkpoint.write(path)
            self._latest = path
        except (tf.errors.OpError, OSError, RuntimeError) as error:
            # What the state file on disk names is whole, even if updating it failed later on.
            latest = tf.train.latest_checkpoint(self.folder)
            self._latest = latest
            if latest is None or not latest.endswith(f"-{position.step}"):
                self._remove_partial(position.step)
            kept = f"the last good checkpoint is {latest}" if latest else "there is none yet"
            raise UserError(
                f"The checkpoint of step {position.step} can't be written to {self.folder} "
                f"({first_line(error)}); {kept}."
            ) from error
        _LOG.info("checkpoint of step %d written to %s", position.step, self.folder)
        fault_point("checkpoint", position.step)

    def restore(self, path: str | None = None) -> Position:
        """Restores `path`, or the newest checkpoint.

        Raises:
            UserError: if there is none, or if it is damaged or of another model.
        """
        path = path or self.latest
        if path is None:
            raise UserError(f"There is no checkpoint in {self.folder}.")
        _check_regular(path)
        try:
            status = self._checkpoint.restore(path)
            status.assert_existing_objects_matched()
            status.expect_partial()  # a model restored for evaluation has no optimizer
        except (tf.errors.OpError, ValueError, AssertionError, LookupError) as error:
            raise UserError(
                f"The checkpoint {path} can't be restored: it is damaged or of another model "
                f"({first_line(error)})."
            ) from error
        return Position(**{name: int(v.numpy()) for name, v in self._position.items()})

    def remove_leftovers(self) -> None:
        """Removes what an interrupted save left."""
        if not self._processes.is_first:
            return
        whole = _whole_checkpoints(self.folder)
        for name in _checkpoint_files(self.folder):
            if name.split(".")[0] not in whole:
                self._remove(name)

    def _remove_partial(self, step: int) -> None:
        if not self._processes.is_first:
            return
        for name in _checkpoint_files(self.folder):
            if name.startswith((f"checkpoint-{step}.", f"checkpoint-{step}_")):
                self._remove(name)

    def _remove(self, name: str) -> None:
        path = files.join(self.folder, name)
        if files.isdir(path):
            files.remove_tree(path)
        else:
            files.remove(path)


def checkpoint_folder(model_dir: str) -> str:
    """Returns the folder in `model_dir` that holds its checkpoints."""
    return files.join(model_dir, "checkpoints")


def newest_checkpoint(model_dir: str) -> str | None:
    """Returns the path prefix of the newest whole checkpoint of `model_dir`, or None.

    Raises:
        UserError: if there are checkpoints, but the file that names the newest is gone or damaged.
    """
    folder = checkpoint_folder(model_dir)
    files.check_regular(files.join(folder, "checkpoint"))
    try:
        newest = tf.train.latest_checkpoint(folder)
    except (ValueError, tf.errors.OpError):
        newest = None
    whole = _whole_checkpoints(folder)
    if whole and newest is None:
        raise UserError(
            f"{folder} holds {len(whole)} checkpoint(s), but its file 'checkpoint', which says "
            "which is the newest, is missing or damaged; restore it, or use another --model_dir."
        )
    return newest


def _check_regular(prefix: str) -> None:
    """Refuses a checkpoint of which a file is a pipe or a device, for which TensorFlow waits."""
    folder, name = os.path.split(prefix)
    for file in _checkpoint_files(folder):
        if file.startswith(f"{name}."):
            files.check_regular(files.join(folder, file))


def _whole_checkpoints(folder: str) -> set[str]:
    # TensorFlow writes a checkpoint's index last, so what has one is whole.
    names = _checkpoint_files(folder)
    return {name.removesuffix(".index") for name in names if name.endswith(".index")}


def _checkpoint_files(folder: str) -> list[str]:
    try:
        return [name for name in files.listdir(folder) if name.startswith("checkpoint-")]
    except (FileNotFoundError, NotADirectoryError):
        return []


def write_run(model_dir: str, run: dict[str, Any]) -> None:
    """Writes run.json, which says what the checkpoints of `model_dir` are of."""
    files.makedirs(model_dir)
    text = json.dumps(run, indent=1)
    files.write_bytes(files.join(model_dir, "run.json"), text.encode("utf-8"))


def read_run(model_dir: str) -> dict[str, Any] | None:
    """Reads run.json; None if there is none.

    Raises:
        UserError: if it is not what `write_run` wrote.
    """
    path = files.join(model_dir, "run.json")
    try:
        text = files.read_bytes(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        run = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a description of a training run: {error}.") from error
    check_run(run, path)
    return dict(run)


def check_run(run: Any, path: str) -> None:
    """Checks what run.json says.

    Raises:
        UserError: unless it describes a training run.
    """
    try:
        if run["format"] != 1:
            raise ValueError(f"its format is {run['format']!r}, not 1")
        TrainingConfig.from_json(run["config"]).validate_model()
        Schema.from_json(run["schema"])
        _check_texts({"data_fingerprint": run["data_fingerprint"]})
        _check_texts(run.get("vocabularies", {}))
        for meaning in run.get("meanings", {}).values():
            Meaning(**meaning)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        reason = str(error) if isinstance(error, ValueError) else repr(error)
        raise UserError(
            f"{path} is not a description of a training run: {reason.rstrip('.')}."
        ) from error


def _check_texts(values: dict[str, Any]) -> None:
    for name, value in values.items():
        if not isinstance(value, str):
            raise TypeError(f"{name} is {value!r}, not a text")
