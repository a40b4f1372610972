"""Random rows of Criteo Kaggle's shape, for every system that is timed, and how it is asked."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np

# Rows of the 26 tables of Criteo Kaggle, as the paper's code counts them: 33,762,577 in all.
TABLE_ROWS = (
    *(1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194),
    *(27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572),
)
DENSE_FEATURES = 13
ALPHA = 1.1
BATCHES = 8


def random_rows(batch_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns dense float32 [rows, 13], ids int32 [26, rows] and labels float32 [rows].

    There are 8 batches of rows. The ids fall off about as a power law, as click logs' do.
    """
    rng = np.random.default_rng(0)
    rows = BATCHES * batch_size
    ids = np.stack([(rng.zipf(ALPHA, rows) % size).astype(np.int32) for size in TABLE_ROWS])
    dense = rng.random((rows, DENSE_FEATURES), dtype=np.float32)
    return dense, ids, (rng.random(rows) < 0.25).astype(np.float32)


def serve(run_steps: Callable[[int], object]) -> None:
    """Answers each line of standard input, a number of steps, with the milliseconds of one step."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        steps = int(line)
        start = time.perf_counter()
        run_steps(steps)
        sys.stdout.write(f"{1000 * (time.perf_counter() - start) / steps}\n")
        sys.stdout.flush()
