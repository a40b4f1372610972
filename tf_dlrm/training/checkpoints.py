"""Checkpoints: whole or none, only of finite weights, and only into the run they belong to."""

from __future__ import annotations

import dataclasses
import glob
import json
import logging
import os
import shutil
from typing import Any

import tensorflow as tf

from tf_dlrm.errors import UserError

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
        trackables: What a checkpoint holds, by name, beside the position.
    """

    def __init__(self, model_dir: str, keep: int, **trackables: Any) -> None:
        self.folder = checkpoint_folder(model_dir)
        self._position = {
            field.name: tf.Variable(0, dtype=tf.int64, trainable=False)
            for field in dataclasses.fields(Position)
        }
        self._checkpoint = tf.train.Checkpoint(position=self._position, **trackables)
        self._manager = tf.train.CheckpointManager(
            self._checkpoint, self.folder, max_to_keep=keep, checkpoint_name="checkpoint"
        )

    @property
    def latest(self) -> str | None:
        """Path prefix of the newest whole checkpoint, or None."""
        return self._manager.latest_checkpoint

    def save(self, position: Position) -> None:
        """Writes a checkpoint; older ones stay until it is whole.

        Raises:
            UserError: if it can't be written, for example on a full disk.
        """
        for name, variable in self._position.items():
            variable.assign(getattr(position, name))
        before = self.latest
        try:
            self._manager.save(checkpoint_number=position.step)
        except (tf.errors.OpError, OSError) as error:
            self._remove_partial(position.step)
            kept = f"the last good checkpoint is {before}" if before else "there is none yet"
            raise UserError(
                f"The checkpoint of step {position.step} can't be written to {self.folder} "
                f"({first_line(error)}); {kept}."
            ) from error
        _LOG.info("checkpoint of step %d written to %s", position.step, self.folder)

    def restore(self, path: str | None = None) -> Position:
        """Restores `path`, or the newest checkpoint.

        Raises:
            UserError: if there is none, or if it is damaged or of another model.
        """
        path = path or self.latest
        if path is None:
            raise UserError(f"There is no checkpoint in {self.folder}.")
        try:
            status = self._checkpoint.restore(path)
            status.assert_existing_objects_matched()
            status.expect_partial()  # a model restored for evaluation has no optimizer
        except (tf.errors.OpError, ValueError, AssertionError) as error:
            raise UserError(
                f"The checkpoint {path} can't be restored: it is damaged or of another model "
                f"({first_line(error)})."
            ) from error
        return Position(**{name: int(v.numpy()) for name, v in self._position.items()})

    def remove_leftovers(self) -> None:
        """Removes what an interrupted save left: files that no whole checkpoint owns."""
        whole = {os.path.basename(path) for path in self._manager.checkpoints}
        for path in glob.glob(os.path.join(glob.escape(self.folder), "checkpoint-*")):
            if os.path.basename(path).split(".")[0].split("_temp")[0] not in whole:
                _remove(path)

    def _remove_partial(self, step: int) -> None:
        prefix = os.path.join(self.folder, f"checkpoint-{step}")
        for path in glob.glob(glob.escape(prefix) + "[._]*"):
            _remove(path)


def checkpoint_folder(model_dir: str) -> str:
    """Returns the folder in `model_dir` that holds its checkpoints."""
    return os.path.join(model_dir, "checkpoints")


def write_run(model_dir: str, run: dict[str, Any]) -> None:
    """Writes run.json, which says what the checkpoints of `model_dir` are of."""
    os.makedirs(model_dir, exist_ok=True)
    path = os.path.join(model_dir, "run.json")
    with open(path + ".incomplete", "w", encoding="utf-8") as out:
        json.dump(run, out, indent=1)
    os.replace(path + ".incomplete", path)


def read_run(model_dir: str) -> dict[str, Any] | None:
    """Reads run.json; None if there is none.

    Raises:
        UserError: if it is not what `write_run` wrote.
    """
    path = os.path.join(model_dir, "run.json")
    if not os.path.exists(path):
        return None
    try:
        with open(path, encoding="utf-8") as lines:
            run = json.load(lines)
        if run["format"] != 1:
            raise ValueError(f"its format is {run['format']!r}, not 1")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a description of a training run: {error}.") from error
    return run


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, without its full stop."""
    message = getattr(error, "message", None) or str(error) or type(error).__name__
    return message.strip().splitlines()[0].rstrip(". ")


def _remove(path: str) -> None:
    if os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        os.remove(path)
