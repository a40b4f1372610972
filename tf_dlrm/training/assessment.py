"""Evaluates a finished model, from a checkpoint or from a SavedModel."""

from __future__ import annotations

import dataclasses
import logging
import time
from typing import Any

import numpy as np

from tf_dlrm.errors import UserError
from tf_dlrm.serving.saved_model import load_saved_model
from tf_dlrm.training import evaluation
from tf_dlrm.training.config import DataOptions, TrainingConfig
from tf_dlrm.training.parity import compare_with_checkpoint
from tf_dlrm.training.restore import restore_model
from tf_dlrm.training.sources import open_source
from tf_dlrm.training.steps import make_logits
from tfrecords.schema import CategoricalColumn, Schema

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
        step = run["step"]
    else:
        model, run, position = restore_model(model_dir, checkpoint)
        logits, step = make_logits(model), position.step
    # The service of the training run may be gone, and reads nothing but training rows.
    options = dataclasses.replace(TrainingConfig.from_json(run["config"]).data, data_service="")
    if data_dir:
        options = DataOptions(data_dir=data_dir)
    options.validate()
    source = open_source(options)
    _check_schema(Schema.from_json(run["schema"]), source.schema)
    if source.fingerprint != run["data_fingerprint"]:
        _LOG.warning(
            "the data is not that of the training run; its ids mean the same only if its "
            "vocabulary is the same"
        )
    if against:
        return {"step": step} | compare_with_checkpoint(
            logits, against, source, split, batch_size, steps, max_difference
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


def _check_schema(model: Schema, data: Schema) -> None:
    """Refuses data whose columns are not those that the model was trained on."""
    if model.dense != data.dense:
        raise UserError(
            f"The model was trained on the {len(model.dense)} dense columns "
            f"{', '.join(model.dense)}, but the data has {len(data.dense)}: "
            f"{', '.join(data.dense)}."
        )
    ours = {column.name: column for column in model.categorical}
    theirs = {column.name: column for column in data.categorical}
    for name in [*ours, *theirs]:
        if ours.get(name) != theirs.get(name):
            raise UserError(
                f"Feature {name} {_in_words(ours.get(name))} in the model, but "
                f"{_in_words(theirs.get(name))} in the data."
            )


def _in_words(column: CategoricalColumn | None) -> str:
    if column is None:
        return "does not exist"
    ids = "any number of ids" if column.hotness is None else f"{column.hotness} id(s)"
    row = column.out_of_vocabulary
    unknown = "no out-of-vocabulary id" if row is None else f"the out-of-vocabulary id {row}"
    return f"has a vocabulary of {column.vocabulary_size}, {ids} a row and {unknown}"
