"""Exports a checkpoint of a run, and tells what smaller numbers in its tables cost."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from tf_dlrm.embeddings import stored_features, tables_of
from tf_dlrm.embeddings.stores.frozen import FrozenTables
from tf_dlrm.errors import UserError
from tf_dlrm.models import Ensemble, RankingModel
from tf_dlrm.serving.export import TableRows, export_model
from tf_dlrm.serving.options import ExportOptions
from tf_dlrm.serving.raw_table import RawTable
from tf_dlrm.serving.saved_model import load_saved_model
from tf_dlrm.serving.signatures import placements
from tf_dlrm.serving.variable_files import CheckpointRows
from tfrecords.schema import Schema

_LOG = logging.getLogger(__name__)


class RunToExport(Protocol):
    """What an export asks of a training run and one of its checkpoints.

    Attributes:
        description: Its run.json.
        schema: The columns it was trained on.
        checkpoint: Path prefix of the checkpoint.
    """

    description: dict[str, Any]
    schema: Schema
    checkpoint: str

    @property
    def compute_dtype(self) -> str:
        """Type in which its layers compute."""

    def restore(
        self, plan: FrozenTables, compute_dtype: str
    ) -> tuple[RankingModel | Ensemble, Any]:
        """Returns the model of the checkpoint, its tables as `plan` says, and its `step`."""

    def described_at(self, step: int) -> dict[str, Any]:
        """Returns run.json with a step and the newest evaluation up to it."""

    def data_set(self) -> str:
        """Returns the folder of its data set; UserError if its data has none."""

    def check_base(self, folder: str) -> None:
        """Raises UserError unless an earlier export is of a model of the same columns."""

    def aucs(self, others: Callable[..., Any]) -> tuple[float, float]:
        """Returns the AUC of the checkpoint and of another model on the evaluation rows."""


def export_checkpoint(
    trained: RunToExport, export_dir: str, options: ExportOptions, incremental_from: str = ""
) -> dict[str, Any]:
    """Exports a checkpoint of a run.

    Tables are read from the checkpoint and written piece by piece.

    Returns:
        `export_dir`, `step`, `table_bytes`, and where it was measured `auc`, `checkpoint_auc` and
        `auc_loss`.

    Raises:
        UserError: if too much AUC would be lost, or as of `export_model`.
    """
    options.validate()
    if incremental_from:
        trained.check_base(incremental_from)
    raw = None
    if options.serve_raw:
        raw = RawTable.of_training(trained.data_set(), trained.description["data_fingerprint"])
    as_trained = options.compute_dtype == "as_trained"
    compute_dtype = trained.compute_dtype if as_trained else options.compute_dtype
    model, position = trained.restore(FrozenTables(options.table_dtype), compute_dtype)
    measured: dict[str, float] = {}

    def check(folder: str) -> None:
        checkpoint_auc, auc = trained.aucs(load_saved_model(folder)[0])
        lost = checkpoint_auc - auc
        measured.update(auc=auc, checkpoint_auc=checkpoint_auc, auc_loss=lost)
        what = f"{options.table_dtype} tables, computed in {compute_dtype}"
        _LOG.info(
            "AUC %.5f with %s; %.5f in the checkpoint: %.5f lost", auc, what, checkpoint_auc, lost
        )
        if lost > options.max_auc_loss:
            raise UserError(
                f"With {what}, the AUC is {auc:.5f}, where the checkpoint's is "
                f"{checkpoint_auc:.5f}: more than --max_auc_loss={options.max_auc_loss} is lost, "
                "so nothing was exported."
            )

    rounded = options.table_dtype != "float32" or compute_dtype != trained.compute_dtype
    export_model(
        model,
        trained.schema,
        export_dir,
        trained.described_at(position.step),
        candidate_features=options.candidate_features,
        raw=raw,
        rows=checkpoint_rows(model, trained.checkpoint),
        check=check if rounded and options.max_auc_loss >= 0 else None,
        incremental_from=incremental_from,
    )
    table_bytes = sum(placement.bytes for placement in placements(model))
    return {"export_dir": export_dir, "step": position.step, "table_bytes": table_bytes, **measured}


def checkpoint_rows(model: RankingModel | Ensemble, path: str) -> TableRows:
    """Returns a reader of the tables of a checkpoint, of whatever placement.

    Args:
        model: A model of the run, whose tables may be empty.
        path: Path prefix of a checkpoint that holds it as `model`.

    Raises:
        UserError: If the checkpoint has not the tables of the model.
    """
    reader = CheckpointRows(path)

    def key(collection: int, table: str) -> str:
        return f"model/{model.checkpoint_key(collection, table)}"

    for collection in range(len(model.collections)):
        for table in tables_of(stored_features(model.config.features)):
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
