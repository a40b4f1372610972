"""Columns of one id made into columns of several, as MLPerf's DLRM-DCNv2 benchmark does.

There is no public click log with many ids a row, so that benchmark invents them: every id of a
table stands for a bag of ids, the first of which is the id itself, the others drawn once for the
table, uniformly or from a Pareto distribution (facebookresearch/dlrm, torchrec_dlrm/multi_hot.py).
There the bags are tables in memory; here the id at a place of a bag is a hash of (seed, column, id,
place), which needs none.
"""

from __future__ import annotations

import numpy as np

from tfrecords.errors import DataError
from tfrecords.hashing import hash_number, hash_numbers

# MLCommons training policies, DLRM-DCNv2: ids per row of the 26 columns, 214 together.
MLPERF = (3, 2, 1, 2, 6, 1, 1, 1, 1, 7, 3, 8, 1, 6, 9, 5, 1, 1, 1, 12, 100, 27, 10, 3, 1, 1)
DISTRIBUTIONS = ("uniform", "pareto")
_PURPOSE = 0x6D756C74
_MOST_IDS = 10_000


def check(hotness: tuple[int, ...], distribution: str) -> None:
    """Checks the options.

    Raises:
        DataError: If one is not allowed.
    """
    for ids in hotness:
        if not 1 <= ids <= _MOST_IDS:
            raise DataError(
                "--multi_hot must be mlperf or numbers of at least 1 (and at most "
                f"{_MOST_IDS}), one per column, not {ids}."
            )
    if distribution not in DISTRIBUTIONS:
        raise DataError(
            f"--multi_hot_distribution must be one of {', '.join(DISTRIBUTIONS)}, "
            f"not {distribution!r}."
        )


def parse_hotness(text: str) -> tuple[int, ...]:
    """Reads the value of `--multi_hot`.

    Args:
        text: Empty, "mlperf", or numbers separated by commas.

    Raises:
        DataError: If it is none of these.
    """
    if not text:
        return ()
    if text == "mlperf":
        return MLPERF
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise DataError(
            "--multi_hot must be mlperf or whole numbers separated by commas, one per categorical "
            f"column, not {text!r}."
        ) from None


def bags(
    ids: np.ndarray, hotness: int, vocabulary_size: int, column: int, distribution: str, seed: int
) -> np.ndarray:
    """The bag of ids that each id stands for.

    Args:
        ids: `[n]`, in `[0, vocabulary_size)`.
        hotness: Ids in each bag.
        vocabulary_size: Number of ids of the column.
        column: Number of the column among the categorical ones.
        distribution: "uniform" over the column's ids, or "pareto": floor of a Pareto (Lomax)
            number of exponent 0.25, modulo the number of ids.
        seed: Another seed gives other bags.

    Returns:
        `[n, hotness]`, of the type of `ids`; the first of each bag is the id itself.
    """
    result: np.ndarray = np.empty((len(ids), hotness), ids.dtype)
    result[:, 0] = ids
    key = hash_number(seed, _PURPOSE, column)
    for place in range(1, hotness):
        hashes = hash_numbers(key, ids, place)
        if distribution == "uniform":
            result[:, place] = hashes % np.uint64(vocabulary_size)
        else:
            # In (0, 1). To the power of -1/0.25 by multiplications only: IEEE 754 fixes their bits.
            uniform = ((hashes >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
            square = uniform * uniform
            numbers = np.floor(1.0 / (square * square) - 1.0)
            result[:, place] = np.fmod(numbers, vocabulary_size)
    return result
