"""Evaluates a finished model, from a checkpoint or from a SavedModel."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np

from tf_dlrm.errors import UserError
from tf_dlrm.serving.saved_model import load_saved_model
from tf_dlrm.training import evaluation
from tf_dlrm.training.config import TrainingConfig
from tf_dlrm.training.run import restore_model
from tf_dlrm.training.sources import open_source
from tf_dlrm.training.steps import make_logits
from tfrecords.schema import Schema


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

    Returns:
        The metrics, `examples` (rows evaluated), `examples_per_second`, `step` and, if
        asked for, `predictions`: a list of {"probability", "label"}.

    Raises:
        UserError: if the model or the data can't be read, or do not fit each other.
    """
    if saved_model:
        logits, run = load_saved_model(saved_model)
        step = run["step"]
    else:
        model, run, position = restore_model(model_dir, checkpoint)
        logits, step = make_logits(model), position.step
    options = TrainingConfig.from_json(run["config"]).data
    if data_dir:
        options = dataclasses.replace(options, data="folder", data_dir=data_dir)
    options.validate()
    source = open_source(options)
    _check_schema(Schema.from_json(run["schema"]), source.schema)
    start = time.perf_counter()
    metrics = evaluation.evaluate(logits, source, split, batch_size, steps)
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


def _check_schema(model: Schema, data: Schema) -> None:
    """Refuses data whose columns are not those that the model was trained on."""
    if model == data:
        return
    if model.dense != data.dense:
        raise UserError(
            f"The model was trained on {len(model.dense)} dense columns {list(model.dense)}, but "
            f"the data has {len(data.dense)}: {list(data.dense)}."
        )
    ours = {column.name: column for column in model.categorical}
    theirs = {column.name: column for column in data.categorical}
    for name in [*ours, *theirs]:
        if ours.get(name) != theirs.get(name):
            raise UserError(
                f"Feature {name!r} is {ours.get(name)} in the model, but {theirs.get(name)} in the "
                "data."
            )
    raise UserError("The data has the model's columns in another order.")
