"""Models as a run's checkpoints have them: to evaluate, and to export."""

from __future__ import annotations

import dataclasses
import os
from typing import Any, NamedTuple

import numpy as np

from tf_dlrm.embeddings import stored_features, tables_of
from tf_dlrm.embeddings.block import ROWS
from tf_dlrm.embeddings.stores.frozen import FrozenTables
from tf_dlrm.errors import UserError
from tf_dlrm.internals import escape_local_name
from tf_dlrm.models import Ensemble, RankingModel
from tf_dlrm.serving.export import TableRows
from tf_dlrm.serving.variable_files import CheckpointRows
from tf_dlrm.training.build import build_model
from tf_dlrm.training.checkpoints import Checkpoints, Position, read_run
from tf_dlrm.training.evaluation.same_columns import check_same_run
from tf_dlrm.training.options.config import TrainingConfig
from tfrecords import files
from tfrecords.schema import Schema


def restore_model(
    model_dir: str, checkpoint: str = ""
) -> tuple[RankingModel | Ensemble, dict[str, Any], Position]:
    """Rebuilds the model of a model directory from a checkpoint, the newest by default.

    Returns:
        The model, the run's description (run.json) and the checkpoint's position.

    Raises:
        UserError: if the folder holds no run, or no such checkpoint.
    """
    return _restore(model_dir, checkpoint)


def _restore(
    model_dir: str, checkpoint: str, plan: FrozenTables | None = None, compute_dtype: str = ""
) -> tuple[RankingModel | Ensemble, dict[str, Any], Position]:
    run = read_run(model_dir)
    if run is None:
        raise UserError(f"--model_dir={model_dir} holds no training run: it has no run.json.")
    if checkpoint:
        folder = os.path.dirname(os.path.dirname(files.absolute(checkpoint)))
        its_own = read_run(folder)
        if its_own is not None:
            check_same_run(run, its_own, f"the run of --checkpoint={checkpoint}")
    config = TrainingConfig.from_json(run["config"])
    schema = Schema.from_json(run["schema"])
    options = config.model
    if compute_dtype:
        options = dataclasses.replace(options, compute_dtype=compute_dtype)
    model = build_model(options, config.optimizer, schema, config.run.seed, plan)
    position = Checkpoints(model_dir, config.run.keep_checkpoints, model=model).restore(
        checkpoint or None
    )
    return model, run, position


class ServedModel(NamedTuple):
    """A model without its tables, and these.

    Attributes:
        model: The model, built with `FrozenTables`.
        rows: The rows of its tables.
        position: How far its training had come.
    """

    model: RankingModel | Ensemble
    rows: TableRows
    position: Position


def restore_for_serving(
    model_dir: str, checkpoint: str, plan: FrozenTables, compute_dtype: str = ""
) -> ServedModel:
    """Rebuilds the model of a model directory for an export; tables are read when asked for.

    Args:
        model_dir: Folder of the run.
        checkpoint: Path prefix of a checkpoint, of whatever placement.
        plan: How its tables are kept.
        compute_dtype: Type in which its layers compute; empty: as in training.

    Raises:
        UserError: As `restore_model`.
    """
    model, _, position = _restore(model_dir, checkpoint, plan, compute_dtype)
    return ServedModel(model, _checkpoint_rows(model, checkpoint), position)


def table_key(table: str, slot: str, member: int | None) -> str:
    """Returns the key of a table in a checkpoint.

    Args:
        table: Its name.
        slot: "rows" or the name of a slot.
        member: Number of the member of an ensemble; None where the model is none.
    """
    owner = "model/" if member is None else f"model/member_{member}/"
    name = escape_local_name(f"table:{table}")
    return f"{owner}embeddings/_checkpoint_tables/{name}/.ATTRIBUTES/{slot}"


def _checkpoint_rows(model: RankingModel | Ensemble, path: str) -> TableRows:
    """Returns a reader of the tables of a checkpoint, of whatever placement.

    Args:
        model: A model of the run.
        path: Path prefix of the checkpoint.
    """
    reader = CheckpointRows(path)
    members = model.members if isinstance(model, Ensemble) else [model]

    def key(collection: int, table: str) -> str:
        return table_key(table, ROWS, collection if isinstance(model, Ensemble) else None)

    for collection, member in enumerate(members):
        for table in tables_of(stored_features(member.config.features)):
            shape = reader.shapes.get(key(collection, table.name))
            if shape != (table.vocabulary_size, table.dim):
                raise UserError(
                    f"The checkpoint {path} can't be restored: it is damaged or of another model "
                    f"(it has table {table.name!r} with the shape {shape}, where run.json says "
                    f"{(table.vocabulary_size, table.dim)})."
                )

    def rows(collection: int, table: str, start: int, count: int) -> np.ndarray:
        return reader.read(key(collection, table), start, count)

    return rows
