"""Evaluation: all logits of a split, then exact metrics."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tf_dlrm.errors import UserError
from tf_dlrm.training.evaluation.metrics import click_metrics
from tf_dlrm.training.evaluation.ranking_metrics import ranking_metrics
from tf_dlrm.training.memory import said_when_it_runs_out
from tf_dlrm.training.sources import Source, readable_errors, rows_or_none

_LOG = logging.getLogger(__name__)

Features = dict[str, tf.Tensor]


class Evaluation:
    """An evaluation of all rows of a split, or of its first ones, that may be repeated.

    Its batches are made once, since tracing their functions anew would take longer than a small
    evaluation.

    Args:
        source: Where the examples come from.
        split: Which of its splits.
        batch_size: Rows in a batch; the last batch may be smaller.
        steps: Number of batches; 0 for all.
        ranking_group_size: Rows of each group that is ranked too; 0 for none.
    """

    def __init__(
        self,
        source: Source,
        split: str,
        batch_size: int,
        steps: int = 0,
        ranking_group_size: int = 0,
    ) -> None:
        self._source, self._split = source, split
        self._batch_size, self._steps = batch_size, steps
        self._ranking_group_size = ranking_group_size
        self._batches: tf.data.Dataset | None = None

    def predictions(
        self, logits: Callable[[Features], tf.Tensor]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields the logits and labels of each batch, in the order of the rows.

        Args:
            logits: Maps a batch of features to logits of shape [batch].
        """
        if self._batches is None:
            batches = self._source.batches(self._split, self._batch_size)
            total = -(-self._source.rows(self._split) // self._batch_size)
            if self._steps:
                batches, total = batches.take(self._steps), min(self._steps, total)
            self._batches = batches.apply(tf.data.experimental.assert_cardinality(total))
        last_line = time.perf_counter()
        advice = "A smaller --eval_batch_size may help."
        with readable_errors(self._source), said_when_it_runs_out(advice):
            for done, (features, labels) in enumerate(self._batches):
                if time.perf_counter() - last_line > 10:
                    last_line = time.perf_counter()
                    total = int(self._batches.cardinality())
                    _LOG.info("evaluation: batch %d of %d", done, total)
                yield logits(features).numpy(), labels.numpy()

    def __call__(self, logits: Callable[[Features], tf.Tensor]) -> dict[str, Any]:
        """Evaluates a model.

        Returns:
            The metrics of `click_metrics`, and with a group size those of `ranking_metrics`.

        Raises:
            UserError: if the split has no rows, or if a logit is not a finite number.
        """
        source, split = self._source, self._split
        if not rows_or_none(source, split):
            raise UserError(
                f"The data has no rows in its split {split!r}, so it can't be evaluated."
            )
        all_logits, all_labels = zip(*self.predictions(logits), strict=True)
        logits_array = np.concatenate(all_logits)
        bad = np.flatnonzero(~np.isfinite(logits_array))
        if bad.size:
            raise UserError(
                f"The model's logit of row {bad[0]} of split {split!r} is "
                f"{logits_array[bad[0]]}, not a finite number ({bad.size} of {logits_array.size} "
                "rows are so)."
            )
        labels = np.concatenate(all_labels)
        metrics = click_metrics(logits_array, labels)
        if metrics["auc"] is None:
            _LOG.warning(
                "all %d labels of split %r are %g, so AUC, accuracy and normalized entropy are "
                "undefined; evaluate rows of both labels",
                *(labels.size, split, labels[0]),
            )
        if self._ranking_group_size:
            metrics |= ranking_metrics(logits_array, labels, self._ranking_group_size)
        return metrics


def evaluate(
    logits: Callable[[Features], tf.Tensor],
    source: Source,
    split: str,
    batch_size: int,
    steps: int = 0,
    ranking_group_size: int = 0,
) -> dict[str, Any]:
    """Evaluates a model once; see `Evaluation`."""
    return Evaluation(source, split, batch_size, steps, ranking_group_size)(logits)
