"""Beginning a run with what another one has learnt, whose tables may have had fewer rows."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tf_dlrm.embeddings import TableConfig, stored_features, tables_of
from tf_dlrm.embeddings.block import ROWS
from tf_dlrm.errors import UserError
from tf_dlrm.models import Ensemble, RankingModel
from tf_dlrm.models.ensemble import members_of
from tf_dlrm.options import in_flag
from tf_dlrm.serving.variable_files import CheckpointRows, Rows, write_tensors
from tf_dlrm.training.checkpoints import checkpoint_folder, newest_checkpoint, read_run
from tf_dlrm.training.evaluation.same_columns import check_grown_columns
from tf_dlrm.training.options.config import TrainingConfig
from tf_dlrm.training.sources import Source
from tfrecords import files

# Returns `count` rows from row `start` on.
_Read = Callable[[int, int], np.ndarray]
_STEP = "position/step/.ATTRIBUTES/VARIABLE_VALUE"
# Other data begin at their first row.
_AT_THE_START = [f"position/{name}/.ATTRIBUTES/VARIABLE_VALUE" for name in ("epoch", "row")]


def write_first_checkpoint(
    config: TrainingConfig, source: Source, model: RankingModel | Ensemble
) -> None:
    """Writes the newest checkpoint of `--init_from` into `--model_dir`, for tables of the model.

    Rows and slots that were there stay byte for byte; further rows have the first values that the
    model's initializers give them, and their slots the optimizer's.

    Args:
        config: The options.
        source: The data.
        model: The model.

    Raises:
        UserError: If the other run is of another model, or of columns that these do not begin with.
    """
    other = config.run.init_from
    before = read_run(other)
    newest = before and newest_checkpoint(other)
    if before is None or not newest:
        raise UserError(f"--init_from={other} holds no training run with a checkpoint.")
    fixed = {"model": None, "optimizer": ["embedding_optimizer", "dense_optimizer"]}
    check_same_options(f"--init_from={other}", before, config, fixed)
    check_grown_columns(before, source)
    reader = CheckpointRows(newest)
    tensors: dict[str, Rows] = {}
    for number, member in enumerate(members_of(model)):
        for table in tables_of(stored_features(member.config.features)):
            slots = {slot.name: slot.initial_value for slot in table.optimizer.slots}
            for slot in (ROWS, *slots):
                key = f"model/{model.checkpoint_key(number, table.name, slot)}"
                shape = reader.shapes.get(key, ())
                fits = shape[1:] in ((), (table.dim,)) and shape[:1] <= (table.vocabulary_size,)
                if not shape or not fits:
                    raise UserError(
                        f"The checkpoint {newest} can't be gone on with: it has {slot!r} of table "
                        f"{table.name!r} with the shape {shape}, where the first rows of "
                        f"{(table.vocabulary_size, table.dim)} are needed."
                    )
                first = functools.partial(_first_values, table, member.config.seed, slots.get(slot))
                read = functools.partial(reader.read, key)
                tensors[key] = _grown(shape, read, table.vocabulary_size, first)
    whole = {key: reader.whole(key) for key in reader.shapes if key not in tensors}
    whole |= {key: np.zeros((), np.int64) for key in _AT_THE_START}
    folder = checkpoint_folder(config.run.model_dir)
    path = files.join(folder, f"checkpoint-{int(whole[_STEP])}")
    write_tensors(path, whole, tensors)
    tf.compat.v1.train.update_checkpoint_state(folder, path)


def _first_values(
    table: TableConfig, seed: int, initial_value: float | None, start: int, count: int
) -> np.ndarray:
    """Returns the first values of rows [count, dim], or of a slot where there is a value of it."""
    if initial_value is None:
        rows: np.ndarray = table.initial_rows(seed, start, count).numpy()
        return rows
    return np.full((count, table.dim), initial_value, np.float32)


def _grown(shape: tuple[int, ...], old: _Read, rows: int, first: _Read) -> Rows:
    """Returns a tensor of `rows` rows that begins with another one of `shape`."""

    def read(start: int, count: int) -> np.ndarray:
        kept = max(0, min(shape[0], start + count) - start)
        parts = [old(start, kept)] if kept else []
        if kept < count:
            made = first(start + kept, count - kept)
            parts.append(made if len(shape) > 1 else made[:, 0])
        return np.concatenate(parts)

    return Rows((rows, *shape[1:]), tf.float32, read)


def check_same_options(
    where: str,
    before: dict[str, Any],
    config: TrainingConfig,
    fixed: dict[str, list[str] | None],
) -> None:
    """Refuses to go on with another model, or in another way.

    Args:
        where: The flag that names the run that is gone on with, and its value.
        before: The run's description (run.json).
        config: The options of this one.
        fixed: The options that must be equal, by their group; None for all of it.

    Raises:
        UserError: If one is not equal.
    """
    was = TrainingConfig.from_json(before["config"])
    for part, names in fixed.items():
        ours, theirs = getattr(config, part), getattr(was, part)
        for name in names or [field.name for field in dataclasses.fields(ours)]:
            old, new = getattr(theirs, name), getattr(ours, name)
            if old != new:
                flag = where.partition("=")[0]
                raise UserError(
                    f"{where} holds a run with --{name}={in_flag(old)}, but this one has "
                    f"--{name}={in_flag(new)}; use the same value or another {flag}."
                )
