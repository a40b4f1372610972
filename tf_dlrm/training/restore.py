"""A training run as one of its checkpoints has it: to evaluate it, and to export it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

from tf_dlrm.embeddings.stores.frozen import FrozenTables
from tf_dlrm.errors import UserError
from tf_dlrm.models import Ensemble, RankingModel
from tf_dlrm.serving.export import EXTRA_ASSETS
from tf_dlrm.training.build import build_model
from tf_dlrm.training.checkpoints import (
    Checkpoints,
    Position,
    newest_checkpoint,
    read_run,
)
from tf_dlrm.training.evaluation.evaluation import evaluate
from tf_dlrm.training.evaluation.same_columns import check_same_run
from tf_dlrm.training.history import History
from tf_dlrm.training.options.config import TrainingConfig, check_model_dir
from tf_dlrm.training.sources import open_source, rows_or_none
from tf_dlrm.training.steps import make_logits
from tfrecords import files
from tfrecords.schema import Schema

_EVAL_BATCH_SIZE = 16384


class CheckpointedRun:
    """A run and one of its checkpoints.

    Args:
        model_dir: Folder of the run.
        checkpoint: Path prefix of a checkpoint, the newest by default.

    Attributes:
        description: Its run.json.
        config: Its options.
        schema: The columns it was trained on.
        checkpoint: Path prefix of the checkpoint.

    Raises:
        UserError: if the folder holds no run or no checkpoint, or the checkpoint is of a run on
            other columns.
    """

    def __init__(self, model_dir: str, checkpoint: str = "") -> None:
        check_model_dir(model_dir)
        self.description = run = read_run(model_dir) or {}
        if checkpoint:
            folder = os.path.dirname(os.path.dirname(files.absolute(checkpoint)))
            its_own = read_run(folder)
            if its_own is not None:
                check_same_run(run, its_own, f"the run of --checkpoint={checkpoint}")
        newest = checkpoint or newest_checkpoint(model_dir)
        if newest is None:
            raise UserError(f"--model_dir={model_dir} holds no checkpoint.")
        self.checkpoint = newest
        self.config = TrainingConfig.from_json(run["config"])
        self.schema = Schema.from_json(run["schema"])
        self._model_dir = model_dir

    def restore(
        self, plan: FrozenTables | None = None, compute_dtype: str = ""
    ) -> tuple[RankingModel | Ensemble, Position]:
        """Rebuilds the model from the checkpoint.

        Args:
            plan: How its tables are kept that are read when asked for; None to restore them too.
            compute_dtype: Type in which its layers compute; empty: as in training.

        Raises:
            UserError: if it can't be restored.
        """
        options = self.config.model
        if compute_dtype:
            options = dataclasses.replace(options, compute_dtype=compute_dtype)
        run = self.config.run
        model = build_model(options, self.config.optimizer, self.schema, run.seed, plan)
        checkpoints = Checkpoints(self._model_dir, run.keep_checkpoints, model=model)
        return model, checkpoints.restore(self.checkpoint)

    @property
    def compute_dtype(self) -> str:
        """Type in which its layers compute."""
        return self.config.model.compute_dtype

    def described_at(self, step: int) -> dict[str, Any]:
        """Returns run.json with a step and the newest evaluation up to it."""
        history = History(self._model_dir, tensorboard=False, resumed_step=step, writes=False)
        return self.description | {"step": step, "metrics": history.last}

    def data_set(self) -> str:
        """Returns the folder of its data set; UserError if its data has none."""
        if self.config.data.data != "folder":
            raise UserError(
                f"--serve_raw needs a model of Criteo's log, but this one was trained with "
                f"--data={self.config.data.data}."
            )
        return self.config.data.data_dir

    def check_base(self, folder: str) -> None:
        """Raises UserError unless an earlier export is of a model of the same columns."""
        base = read_run(files.join(folder, EXTRA_ASSETS))
        if base is None:
            raise UserError(f"--incremental_from={folder} is no SavedModel that tf_dlrm exported.")
        check_same_run(self.description, base, f"the model of --incremental_from={folder}")

    def aucs(self, others: Callable[..., Any]) -> tuple[float, float]:
        """Returns the AUC of the checkpoint and of another model on the evaluation rows.

        Raises:
            UserError: if there is none.
        """
        source = open_source(dataclasses.replace(self.config.data, data_service=""))
        without = "so the loss of AUC can't be measured; --max_auc_loss=-1 exports without."
        if source.fingerprint != self.description["data_fingerprint"]:
            raise UserError(f"The data is not that of the training run any more, {without}")
        if not rows_or_none(source, "evaluation"):
            raise UserError(f"The data has no evaluation rows, {without}")
        own, other = (
            evaluate(logits, source, "evaluation", _EVAL_BATCH_SIZE)["auc"]
            for logits in (make_logits(self.restore()[0]), others)
        )
        if own is None:
            raise UserError(f"All evaluation rows have the same label, {without}")
        return own, other
