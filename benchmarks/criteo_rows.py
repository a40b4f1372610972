"""Criteo rows as the quality baselines read, split and score them.

Both baselines must see the same rows, the same evaluation rows and the same metrics, or their
figures cannot be compared; this module is what they share. It depends on NumPy and scikit-learn
only, so a peer's environment without TensorFlow can run it.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path

import numpy as np
from sklearn import metrics

DENSE_COLUMNS = 13
CATEGORY_COLUMNS = 26
COLUMNS = 1 + DENSE_COLUMNS + CATEGORY_COLUMNS
BLANK_CATEGORY = -1
DAYS = 7


@dataclasses.dataclass(frozen=True)
class CriteoRows:
    """Raw rows in file order.

    Attributes:
        labels: int8 `[rows]`, 0 or 1.
        dense: float64 `[rows, 13]`, the integers as they stand in the file, NaN where blank.
        categories: int64 `[rows, 26]`, the hexadecimal values, `BLANK_CATEGORY` where blank.
    """

    labels: np.ndarray
    dense: np.ndarray
    categories: np.ndarray

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.labels)

    def __getitem__(self, rows: slice) -> CriteoRows:
        """The given rows, in order."""
        return CriteoRows(self.labels[rows], self.dense[rows], self.categories[rows])


def load_rows(path: Path) -> CriteoRows:
    """Reads a Criteo Kaggle TSV: label, 13 integers, 26 hexadecimal categories.

    Args:
        path: The file, uncompressed. Only fields 2 to 40 may be blank.

    Returns:
        All rows, in the order of the file.

    Raises:
        ValueError: The file holds no rows, or a row has another number of columns, a label other
            than 0 and 1, or a field that is no number. The message names the line and the column.
    """
    labels: list[int] = []
    dense: list[list[float]] = []
    categories: list[list[int]] = []
    with path.open(encoding="ascii") as lines:
        for number, line in enumerate(lines, start=1):
            fields = line.rstrip("\n").split("\t")
            if len(fields) != COLUMNS:
                raise ValueError(
                    f"{path}, line {number}: expected {COLUMNS} tab-separated columns, "
                    f"found {len(fields)}."
                )
            if fields[0] not in ("0", "1"):
                raise ValueError(
                    f"{path}, line {number}, column 1: a label is 0 or 1, found {fields[0]!r}."
                )
            try:
                row_dense = [float(int(x)) if x else math.nan for x in fields[1:14]]
                row_categories = [int(x, 16) if x else BLANK_CATEGORY for x in fields[14:]]
            except ValueError as error:
                column, kind = _bad_column(fields)
                raise ValueError(
                    f"{path}, line {number}, column {column}: expected {kind} or a blank, "
                    f"found {fields[column - 1]!r}."
                ) from error
            labels.append(int(fields[0]))
            dense.append(row_dense)
            categories.append(row_categories)
    if not labels:
        raise ValueError(f"{path} holds no rows.")
    return CriteoRows(
        np.array(labels, np.int8), np.array(dense, np.float64), np.array(categories, np.int64)
    )


def _bad_column(fields: list[str]) -> tuple[int, str]:
    for column, field in enumerate(fields[1:], start=2):
        base, kind = (10, "an integer") if column <= 14 else (16, "a hexadecimal category")
        try:
            int(field or "0", base)
        except ValueError:
            return column, kind
    raise ValueError("Every field of the row is a number or blank.")


def split_last_day(rows: CriteoRows) -> tuple[CriteoRows, CriteoRows]:
    """Cuts chronological rows into seven days and keeps the last one apart.

    The days are those of facebookresearch/dlrm: equal parts, the first ones a row longer where
    seven does not divide the count. Applied to its own first result it gives the hold-out rows
    for choosing settings without a look at the evaluation rows.

    Args:
        rows: At least seven rows.

    Returns:
        The first six days, and the seventh.

    Raises:
        ValueError: There are fewer than seven rows.
    """
    if len(rows) < DAYS:
        raise ValueError(f"A split into {DAYS} days needs {DAYS} rows or more, got {len(rows)}.")
    last_day = len(rows) // DAYS
    return rows[: len(rows) - last_day], rows[len(rows) - last_day :]


def score(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Scores predicted click probabilities.

    Args:
        labels: `[rows]`, 0 or 1, both present.
        probabilities: `[rows]`, within [0, 1].

    Returns:
        `auc` (exact), `auc_standard_error` (DeLong et al. 1988, Biometrics 44(3), over the rows),
        `log_loss` (nats) and `accuracy` at 0.5.
    """
    probabilities = np.asarray(probabilities, np.float64)
    return {
        "auc": float(metrics.roc_auc_score(labels, probabilities)),
        "auc_standard_error": _auc_standard_error(labels, probabilities),
        "log_loss": float(metrics.log_loss(labels, probabilities)),
        "accuracy": float(np.mean((probabilities >= 0.5) == (labels == 1))),
    }


def _auc_standard_error(labels: np.ndarray, scores: np.ndarray) -> float:
    positives = np.sort(scores[labels == 1])
    negatives = np.sort(scores[labels == 0])
    # Each row's share of the other class that it ranks rightly, ties counted half.
    won = _share_below(positives, negatives)
    lost = 1.0 - _share_below(negatives, positives)
    return float(np.sqrt(won.var(ddof=1) / len(won) + lost.var(ddof=1) / len(lost)))


def _share_below(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    below = np.searchsorted(others, values, side="left")
    not_above = np.searchsorted(others, values, side="right")
    return (below + not_above) / (2.0 * len(others))


def report(message: str) -> None:
    """Writes one line of progress to standard error; standard output is for the result."""
    sys.stderr.write(message + "\n")
    sys.stderr.flush()
