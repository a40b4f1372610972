"""Compares the predictions of a SavedModel with those of the checkpoint that it was made of."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import tensorflow as tf

from tf_dlrm.errors import UserError
from tf_dlrm.training.evaluation.evaluation import predictions
from tf_dlrm.training.evaluation.metrics import click_metrics
from tf_dlrm.training.evaluation.same_columns import check_same_run
from tf_dlrm.training.restore import restore_model
from tf_dlrm.training.sources import Source, rows_or_none
from tf_dlrm.training.steps import make_logits
from tfrecords import files


def compare_with_checkpoint(
    saved_logits: Any,
    run: dict[str, Any],
    against: str,
    source: Source,
    split: str,
    batch_size: int,
    steps: int,
    max_difference: float,
) -> dict[str, Any]:
    """Scores the same rows by a SavedModel and by a checkpoint.

    Args:
        saved_logits: The SavedModel's function from features to logits.
        run: The description of its run.
        against: A checkpoint's path prefix, or the folder of a run for its newest one.
        source: The rows.
        split: Which of its splits.
        batch_size: Rows in a batch.
        steps: Number of batches; 0 for all.
        max_difference: The largest difference of two probabilities that passes.

    Returns:
        `rows`, `largest_difference` and `mean_difference` of the probabilities, the `auc` of each,
        and `checkpoint_step`.

    Raises:
        UserError: if there is no such checkpoint, if it is of a model of other columns or ids, or
            if a difference is larger.
    """
    if not rows_or_none(source, split):
        raise UserError(f"The data has no rows in the split {split!r}, so nothing can be compared.")
    model_dir, checkpoint = against, ""
    if files.isfile(against + ".index"):
        against = files.absolute(against)
        model_dir, checkpoint = os.path.dirname(os.path.dirname(against)), against
    model, other, position = restore_model(model_dir, checkpoint)
    check_same_run(run, other, "the checkpoint's model")
    logits = make_logits(model)

    def both(features: Any) -> tf.Tensor:
        pair = [tf.cast(f(features), tf.float64) for f in (saved_logits, logits)]
        return tf.stack(pair, 1)

    pairs, labels = zip(*predictions(both, source, split, batch_size, steps), strict=True)
    all_logits, all_labels = np.concatenate(pairs), np.concatenate(labels)
    probabilities = 1.0 / (1.0 + np.exp(-all_logits))
    differences = np.abs(probabilities[:, 0] - probabilities[:, 1])
    differences[np.isnan(differences)] = np.inf
    row = int(differences.argmax())
    if not differences[row] <= max_difference:
        raise UserError(
            f"Row {row} of split {split!r} has the probability {probabilities[row, 0]:.7g} by the "
            f"SavedModel and {probabilities[row, 1]:.7g} by the checkpoint of step "
            f"{position.step}; {(differences > max_difference).sum()} of {len(differences)} rows "
            f"differ by more than --max_difference={max_difference:g}. Tables of fewer bits and "
            "bfloat16 round; anything else should agree."
        )
    return {
        "rows": len(differences),
        "largest_difference": float(differences[row]),
        "mean_difference": float(differences.mean()),
        "auc": click_metrics(all_logits[:, 0], all_labels)["auc"],
        "checkpoint_auc": click_metrics(all_logits[:, 1], all_labels)["auc"],
        "checkpoint_step": position.step,
    }
