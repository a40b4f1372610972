"""Evaluates a finished model, from a checkpoint or from a SavedModel."""

from __future__ import annotations

import dataclasses
import logging
import time
from typing import Any

import numpy as np

from tf_dlrm.serving.saved_model import load_saved_model
from tf_dlrm.training.checkpoints import check_run
from tf_dlrm.training.evaluation import evaluation
from tf_dlrm.training.evaluation.parity import compare_with_checkpoint
from tf_dlrm.training.evaluation.same_columns import check_columns
from tf_dlrm.training.options.config import DataOptions, TrainingConfig
from tf_dlrm.training.restore import restore_model
from tf_dlrm.training.sources import open_source
from tf_dlrm.training.steps import make_logits

_LOG = logging.getLogger(__name__)


def assess(
    *,
    model_dir: str,
    checkpoint: str,
    saved_model: str,
    data_dir: str,
    split: str,
    batch_size: int,
    steps: int,
    predictions: int,
    ranking_group_size: int = 0,
    against: str = "",
    max_difference: float = 0.0,
) -> dict[str, Any]:
    """Evaluates a checkpoint of `model_dir`, or `saved_model` where that is given.

    Args:
        model_dir: Folder of a training run, or empty.
        checkpoint: Path prefix of a checkpoint, or empty for the newest.
        saved_model: Folder of an exported SavedModel, or empty.
        data_dir: Data set folder, or empty for the data of the training run.
        split: "train" or "evaluation".
        batch_size: Rows in a batch.
        steps: Number of batches; 0 for all.
        predictions: Number of first rows whose probability and label are given too.
        ranking_group_size: Rows of each group that is ranked too; 0 for none.
        against: A checkpoint or the folder of a run, with which a SavedModel is compared instead.
        max_difference: The largest difference of two probabilities that then passes.

    Returns:
        The metrics, `examples` (rows evaluated), `examples_per_second`, `step` and, if
        asked for, `predictions`: a list of {"probability", "label"}. With `against`, see
        `compare_with_checkpoint`.

    Raises:
        UserError: if the model or the data can't be read, or do not fit each other.
    """
    if saved_model:
        logits, run = load_saved_model(saved_model)
        check_run(run, f"run.json of --saved_model={saved_model}")
        step = run["step"]
    else:
        model, run, position = restore_model(model_dir, checkpoint)
        logits, step = make_logits(model), position.step
    # The service of the training run may be gone, and reads nothing but training rows.
    options = dataclasses.replace(TrainingConfig.from_json(run["config"]).data, data_service="")
    if data_dir:
        options = DataOptions(data_dir=data_dir)
    elif saved_model:  # which may come from elsewhere
        named = options.data_dir or f"--data={options.data}"
        _LOG.info("the rows are those that run.json of %s names: %s", saved_model, named)
    options.validate()
    source = open_source(options)
    check_columns(run, source)
    if against:
        return {"step": step} | compare_with_checkpoint(
            logits, run, against, source, split, batch_size, steps, max_difference
        )
    start = time.perf_counter()
    metrics = evaluation.evaluate(
        logits, source, split, batch_size, steps, ranking_group_size=ranking_group_size
    )
    seconds = time.perf_counter() - start
    examples = metrics.pop("evaluation_examples")
    result = metrics | {
        "examples": examples,
        "examples_per_second": round(examples / seconds, 1),
        "step": step,
    }
    if predictions:
        result["predictions"] = _first_predictions(logits, source, split, predictions)
    return result


def _first_predictions(logits: Any, source: Any, split: str, count: int) -> list[dict[str, float]]:
    first_logits, labels = next(evaluation.predictions(logits, source, split, count))
    probabilities = 1.0 / (1.0 + np.exp(-first_logits.astype(np.float64)))
    return [
        {"probability": float(p), "label": float(label)}
        for p, label in zip(probabilities, labels, strict=True)
    ]
