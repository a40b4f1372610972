"""Rows as every input format hands them to the conversion."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np


@dataclasses.dataclass(frozen=True)
class Rows:
    """Parsed rows whose categorical values are not ids yet.

    Attributes:
        label: float32 `[rows]`, in [0, 1].
        dense: float32 `[dense columns, rows]`; finite, and transformed already (log1p and such).
        keys: For each categorical column uint64 `[rows]`, `[rows * hotness]`, or
            `[lengths.sum()]` where it is ragged. Equal values have equal keys, and different ones
            different keys: surely so for numbers, while text is known by its 64-bit fingerprint,
            which two of a billion texts share with a probability of some 3 %. That is all that a
            key says.
        lengths: For each categorical column int32 `[rows]` where it is ragged, else None.
        kept: What else there is of each row, `[rows]`, by the names of `InputFormat.kept`.
    """

    label: np.ndarray
    dense: np.ndarray
    keys: tuple[np.ndarray, ...]
    lengths: tuple[np.ndarray | None, ...]
    kept: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.label)
