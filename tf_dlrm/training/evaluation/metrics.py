"""Exact metrics of click models, from all logits and labels of an evaluation."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import roc_auc_score


def click_metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float | int | None]:
    """Computes the metrics in double precision, without thresholds or sampling.

    Args:
        logits: Finite numbers of shape [rows].
        labels: 0 or 1, shape [rows].

    Returns:
        - `auc`: area under the ROC curve, ties counted half; None if only one class occurs.
        - `log_loss`: mean cross-entropy in nats.
        - `accuracy`: share of rows where a probability of at least 0.5 agrees with the label; None
          if only one class occurs.
        - `normalized_entropy`: `log_loss` over the entropy of the labels' own mean, so that 1 is
          as good as knowing the base rate; None if only one class occurs.
        - `calibration`: mean predicted probability over mean label; None without a positive label.
        - `evaluation_examples`: the number of rows.

    Raises:
        ValueError: if there are no rows, or the two lengths differ.
    """
    if logits.shape != labels.shape or logits.ndim != 1 or not logits.size:
        raise ValueError(
            "logits and labels must be vectors of one length, at least 1, but their shapes are "
            f"{logits.shape} and {labels.shape}."
        )
    x: np.ndarray = logits.astype(np.float64)
    y: np.ndarray = labels.astype(np.float64)
    # log(1 + exp(x)) - x * y, written so that neither end overflows.
    log_loss = float(np.mean(np.logaddexp(0.0, x) - x * y))
    base_rate = float(y.mean())
    both_classes = 0.0 < base_rate < 1.0
    entropy = 0.0
    if both_classes:
        entropy = -base_rate * np.log(base_rate) - (1 - base_rate) * np.log1p(-base_rate)
    mean_probability = float(np.mean(np.exp(-np.logaddexp(0.0, -x))))
    return {
        "auc": float(roc_auc_score(y > 0.5, x)) if both_classes else None,
        "log_loss": log_loss,
        "accuracy": float(np.mean((x >= 0) == (y > 0.5))) if both_classes else None,
        "normalized_entropy": log_loss / float(entropy) if both_classes else None,
        "calibration": mean_probability / base_rate if base_rate else None,
        "evaluation_examples": int(x.size),
    }
