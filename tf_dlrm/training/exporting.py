"""Exports a run's checkpoint, and tells what smaller numbers in its tables cost."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

from tf_dlrm.embeddings.stores.frozen import FrozenTables
from tf_dlrm.errors import UserError
from tf_dlrm.serving.export import export_model
from tf_dlrm.serving.raw_table import RawTable
from tf_dlrm.serving.saved_model import load_saved_model
from tf_dlrm.serving.signatures import placements
from tf_dlrm.training.checkpoints import newest_checkpoint, read_exported_run, read_run
from tf_dlrm.training.evaluation.evaluation import evaluate
from tf_dlrm.training.evaluation.same_columns import check_same_run
from tf_dlrm.training.history import History
from tf_dlrm.training.options.config import TrainingConfig
from tf_dlrm.training.options.export import ExportOptions
from tf_dlrm.training.restore import restore_for_serving, restore_model
from tf_dlrm.training.sources import open_source, rows_or_none
from tf_dlrm.training.steps import make_logits
from tfrecords.dataset_info import DatasetInfo
from tfrecords.errors import DataError
from tfrecords.schema import Schema

_LOG = logging.getLogger(__name__)

_EVAL_BATCH_SIZE = 16384


def export_checkpoint(
    model_dir: str,
    checkpoint: str,
    export_dir: str,
    options: ExportOptions,
    incremental_from: str = "",
) -> dict[str, Any]:
    """Exports a checkpoint of a run.

    Tables are read from the checkpoint and written piece by piece.

    Args:
        model_dir: Folder of the run.
        checkpoint: Path prefix of a checkpoint, or empty for the newest.
        export_dir: Folder of the SavedModel to write.
        options: What it offers.
        incremental_from: An earlier export, if only what changed since is to be written.

    Returns:
        `export_dir`, `step`, `table_bytes`, and where it was measured `auc`, `checkpoint_auc` and
        `auc_loss`.

    Raises:
        UserError: if there is no such checkpoint, or too much AUC would be lost.
    """
    options.validate()
    run = read_run(model_dir)
    if run is None:
        raise UserError(f"--model_dir={model_dir} holds no training run: it has no run.json.")
    config = TrainingConfig.from_json(run["config"])
    schema = Schema.from_json(run["schema"])
    if incremental_from:
        base = read_exported_run(incremental_from)
        if base is None:
            raise UserError(
                f"--incremental_from={incremental_from} is no SavedModel that tf_dlrm exported."
            )
        check_same_run(run, base, f"the model of --incremental_from={incremental_from}")
    raw = _raw(config, run) if options.serve_raw else None
    path = checkpoint or newest_checkpoint(model_dir)
    if path is None:
        raise UserError(f"--model_dir={model_dir} holds no checkpoint.")
    trained = config.model.compute_dtype
    compute_dtype = trained if options.compute_dtype == "as_trained" else options.compute_dtype
    plan = FrozenTables(options.table_dtype)
    served = restore_for_serving(model_dir, path, plan, compute_dtype)
    step = served.position.step
    history = History(model_dir, tensorboard=False, resumed_step=step, writes=False)
    run |= {"step": step, "metrics": history.last}
    measured: dict[str, float] = {}

    def check(folder: str) -> None:
        measured.update(_auc_loss(config, run["data_fingerprint"], model_dir, path, folder))
        _LOG.info(
            "AUC %.5f with %s tables, computed in %s; %.5f in the checkpoint: %.5f lost",
            *(measured["auc"], options.table_dtype, compute_dtype),
            *(measured["checkpoint_auc"], measured["auc_loss"]),
        )
        if measured["auc_loss"] > options.max_auc_loss:
            raise UserError(
                f"With {options.table_dtype} tables, computed in {compute_dtype}, the AUC is "
                f"{measured['auc']:.5f}, where the checkpoint's is "
                f"{measured['checkpoint_auc']:.5f}: more than "
                f"--max_auc_loss={options.max_auc_loss} is lost, so nothing was exported."
            )

    rounded = options.table_dtype != "float32" or compute_dtype != trained
    export_model(
        served.model,
        schema,
        export_dir,
        run,
        candidate_features=options.candidate_features,
        raw=raw,
        rows=served.rows,
        check=check if rounded and options.max_auc_loss >= 0 else None,
        incremental_from=incremental_from,
    )
    return {
        "export_dir": export_dir,
        "step": step,
        "table_bytes": sum(placement.bytes for placement in placements(served.model)),
        **measured,
    }


def _raw(config: TrainingConfig, run: dict[str, Any]) -> RawTable:
    """Returns the fields of the log, by the data set that the run was trained on."""
    if config.data.data != "folder":
        raise UserError(
            f"--serve_raw needs a model of Criteo's log, but this one was trained with "
            f"--data={config.data.data}."
        )
    folder = config.data.data_dir
    try:
        info = DatasetInfo.load_description(folder)
    except DataError as error:
        raise UserError(f"--serve_raw needs the vocabulary of the training data. {error}") from None
    if info.fingerprint != run["data_fingerprint"]:
        raise UserError(
            f"{folder} is not the data that the model was trained on any more, so --serve_raw "
            "can't have its vocabulary."
        )
    return RawTable(info, folder)


def _auc_loss(
    config: TrainingConfig, fingerprint: str, model_dir: str, checkpoint: str, saved_model: str
) -> dict[str, float]:
    """Returns the AUC of a SavedModel and of the checkpoint on the evaluation rows."""
    source = open_source(dataclasses.replace(config.data, data_service=""))
    without = "so the loss of AUC can't be measured; --max_auc_loss=-1 exports without."
    if source.fingerprint != fingerprint:
        raise UserError(f"The data is not that of the training run any more, {without}")
    if not rows_or_none(source, "evaluation"):
        raise UserError(f"The data has no evaluation rows, {without}")
    model, _, _ = restore_model(model_dir, checkpoint)
    exported, _ = load_saved_model(saved_model)
    aucs = [
        evaluate(logits, source, "evaluation", _EVAL_BATCH_SIZE)["auc"]
        for logits in (exported, make_logits(model))
    ]
    if None in aucs:
        raise UserError(f"All evaluation rows have the same label, {without}")
    return {"auc": aucs[0], "checkpoint_auc": aucs[1], "auc_loss": aucs[1] - aucs[0]}
