"""Labels that are all alike, from which nothing can be learnt."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from tfrecords.errors import DataError

FAIL, ACCEPT = "fail", "accept"


class OddLabels(DataError):
    """Labels are all alike, or a described one never occurs."""


@dataclasses.dataclass
class LabelRange:
    """The labels of some rows, as far as it matters whether they differ.

    Attributes:
        rows: Number of rows.
        low: The smallest label.
        high: The largest one.
    """

    rows: int = 0
    low: float = math.inf
    high: float = -math.inf

    def add(self, label: np.ndarray) -> None:
        """Adds labels `[rows]`."""
        self.rows += len(label)
        self.low = min(self.low, float(label.min(initial=math.inf)))
        self.high = max(self.high, float(label.max(initial=-math.inf)))

    def add_range(self, other: LabelRange) -> None:
        """Adds the labels of other rows."""
        self.rows += other.rows
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)

    @property
    def differ(self) -> bool:
        """Whether there are two different labels."""
        return self.low < self.high

    def check(self, split: str, more: str = "") -> None:
        """Checks that the labels of a split differ, where it has more than one row.

        Args:
            split: Its name.
            more: What is known of them beside, as a clause.

        Raises:
            OddLabels: If all are alike.
        """
        if self.differ or self.rows <= 1:
            return
        raise OddLabels(
            f"All {self.rows:,} rows of the split {split!r} have the label {self.low:g}, so "
            f"nothing can be learnt from them, and no AUC is defined{more}. Choose other rows or "
            "correct what the label is made of; "
            f"--on_odd_labels={ACCEPT} goes on with them as they are."
        )
