"""Negative sub-sampling: which rows with label 0 are kept."""

from __future__ import annotations

import numpy as np

from tfrecords.conversion.options import Options
from tfrecords.errors import DataError
from tfrecords.hashing import hash_number, hash_numbers

_PURPOSE = 0x6E656761


def kept(label: np.ndarray, first_row: int, keep_negatives: float, seed: int) -> np.ndarray:
    """Which rows are kept: a function of seed, row and label, wherever the rows are cut.

    Args:
        label: `[rows]`; rows whose label is above 0 are always kept.
        first_row: Number of the first row among all rows that were read.
        keep_negatives: The share of the others that is kept, in (0, 1].
        seed: Another seed keeps others.

    Returns:
        bool `[rows]`.
    """
    if keep_negatives >= 1:
        return np.ones(len(label), np.bool_)
    rows: np.ndarray = np.arange(first_row, first_row + len(label), dtype=np.uint64)
    # 53 bits of the hash are a number in [0, 1) that float64 holds exactly.
    drawn = (hash_numbers(hash_number(seed, _PURPOSE), rows) >> np.uint64(11)) * 2.0**-53
    result: np.ndarray = (label > 0) | (drawn < keep_negatives)
    return result


def check_kept(options: Options, training_rows: int) -> None:
    """Refuses options that leave no training row."""
    if not training_rows:
        raise DataError(
            f"--keep_negatives={options.keep_negatives} leaves no training row; keep more."
        )
