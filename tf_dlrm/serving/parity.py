"""Compares the predictions of a SavedModel with those of the checkpoint that it was made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tf_dlrm.errors import UserError


def compare_logits(
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    split: str,
    checkpoint_step: int,
    max_difference: float,
    auc: Callable[[np.ndarray, np.ndarray], float | None],
) -> dict[str, Any]:
    """Compares what a SavedModel and a checkpoint say of the same rows.

    Args:
        batches: Logits float64 [batch, 2] of SavedModel and checkpoint, and labels [batch].
        split: Where the rows are from.
        checkpoint_step: Step of the checkpoint.
        max_difference: The largest difference of two probabilities that passes.
        auc: Of logits and labels, each [rows], the AUC.

    Returns:
        `rows`, `largest_difference` and `mean_difference` of the probabilities, `auc` and
        `checkpoint_auc`, and `checkpoint_step`.

    Raises:
        UserError: If a difference is larger.
    """
    logits, labels = map(np.concatenate, zip(*batches, strict=True))
    probabilities = 1.0 / (1.0 + np.exp(-logits))
    differences = np.abs(probabilities[:, 0] - probabilities[:, 1])
    differences[np.isnan(differences)] = np.inf
    row = int(differences.argmax())
    if not differences[row] <= max_difference:
        raise UserError(
            f"Row {row} of split {split!r} has the probability {probabilities[row, 0]:.7g} by the "
            f"SavedModel and {probabilities[row, 1]:.7g} by the checkpoint of step "
            f"{checkpoint_step}; {(differences > max_difference).sum()} of {len(differences)} rows "
            f"differ by more than --max_difference={max_difference:g}. Tables of fewer bits and "
            "bfloat16 round; anything else should agree."
        )
    return {
        "rows": len(differences),
        "largest_difference": float(differences[row]),
        "mean_difference": float(differences.mean()),
        "auc": auc(logits[:, 0], labels),
        "checkpoint_auc": auc(logits[:, 1], labels),
        "checkpoint_step": checkpoint_step,
    }
