"""Evaluates a finished model, from a checkpoint or from a SavedModel."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from typing import Any

import numpy as np
import tensorflow as tf

from tf_dlrm.errors import UserError
from tf_dlrm.serving.parity import compare_logits
from tf_dlrm.serving.saved_model import load_saved_model
from tf_dlrm.training.checkpoints import check_run
from tf_dlrm.training.evaluation.evaluation import Evaluation
from tf_dlrm.training.evaluation.metrics import click_metrics
from tf_dlrm.training.evaluation.same_columns import check_columns, check_same_run
from tf_dlrm.training.options.config import DataOptions, TrainingConfig
from tf_dlrm.training.options.evaluation import EvaluationOptions
from tf_dlrm.training.restore import CheckpointedRun
from tf_dlrm.training.sources import Source, open_source, rows_or_none
from tf_dlrm.training.steps import make_logits
from tfrecords import files

_LOG = logging.getLogger(__name__)


def assess(options: EvaluationOptions) -> dict[str, Any]:
    """Evaluates a model, or compares a SavedModel with a checkpoint.

    Returns:
        The metrics, `examples` (rows evaluated), `examples_per_second`, `step` and, if
        asked for, `predictions`: a list of {"probability", "label"}. With `against`, see
        `compare_logits`.

    Raises:
        UserError: if the model or the data can't be read, or do not fit each other.
    """
    if options.saved_model:
        logits, run = load_saved_model(options.saved_model)
        check_run(run, f"run.json of --saved_model={options.saved_model}")
        step = run["step"]
    else:
        trained = CheckpointedRun(options.model_dir, options.checkpoint)
        model, position = trained.restore()
        logits, step, run = make_logits(model), position.step, trained.description
    # The service of the training run may be gone, and reads nothing but training rows.
    data = dataclasses.replace(TrainingConfig.from_json(run["config"]).data, data_service="")
    if options.data_dir:
        data = DataOptions(data_dir=options.data_dir)
    elif options.saved_model:  # which may come from elsewhere
        named = data.data_dir or f"--data={data.data}"
        _LOG.info("the rows are those that run.json of %s names: %s", options.saved_model, named)
    data.validate()
    source = open_source(data)
    check_columns(run, source)
    if options.against:
        return {"step": step} | _compare(logits, run, source, options)
    start = time.perf_counter()
    metrics = _evaluation(source, options)(logits)
    seconds = time.perf_counter() - start
    examples = metrics.pop("evaluation_examples")
    result = metrics | {
        "examples": examples,
        "examples_per_second": round(examples / seconds, 1),
        "step": step,
    }
    if options.print_predictions:
        first_logits, labels = next(
            Evaluation(source, options.split, options.print_predictions).predictions(logits)
        )
        probabilities = 1.0 / (1.0 + np.exp(-first_logits.astype(np.float64)))
        result["predictions"] = [
            {"probability": float(p), "label": float(label)}
            for p, label in zip(probabilities, labels, strict=True)
        ]
    return result


def _compare(
    saved_logits: Any, run: dict[str, Any], source: Source, options: EvaluationOptions
) -> dict[str, Any]:
    """Scores the same rows by a SavedModel and by a checkpoint; see `compare_logits`."""
    split = options.split
    if not rows_or_none(source, split):
        raise UserError(f"The data has no rows in the split {split!r}, so nothing can be compared.")
    model_dir, checkpoint = options.against, ""
    if files.isfile(options.against + ".index"):
        checkpoint = files.absolute(options.against)
        model_dir = os.path.dirname(os.path.dirname(checkpoint))
    trained = CheckpointedRun(model_dir, checkpoint)
    model, position = trained.restore()
    check_same_run(run, trained.description, "the checkpoint's model")
    logits = make_logits(model)

    def both(features: Any) -> tf.Tensor:
        return tf.stack([tf.cast(f(features), tf.float64) for f in (saved_logits, logits)], 1)

    return compare_logits(
        _evaluation(source, options).predictions(both),
        split,
        position.step,
        options.max_difference,
        lambda *of_rows: click_metrics(*of_rows)["auc"],
    )


def _evaluation(source: Source, options: EvaluationOptions) -> Evaluation:
    return Evaluation(
        *(source, options.split, options.eval_batch_size, options.eval_steps),
        ranking_group_size=options.ranking_group_size,
    )
