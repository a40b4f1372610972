"""The work that `benchmarks.step` gives to every system: shapes, and batches of random rows.

Needs NumPy only, so that every system's environment can import it.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from step_rows import ALPHA, DENSE_FEATURES, TABLE_ROWS

BATCHES = 4
LEARNING_RATE = 0.01

# MLPerf's DLRM-DCNv2: rows of the tables, and ids in each bag.
_MLPERF_ROWS = (
    *(40000000, 39060, 17295, 7424, 20265, 3, 7122, 1543, 63, 40000000, 3067956, 405282, 10),
    *(2209, 11938, 155, 4, 976, 14, 40000000, 40000000, 40000000, 590152, 12973, 108, 36),
)
_MLPERF_IDS = (3, 2, 1, 2, 6, 1, 1, 1, 1, 7, 3, 8, 1, 6, 9, 5, 1, 1, 1, 12, 100, 27, 10, 3, 1, 1)
# So that tables and slots fit into 8 GB.
_MLPERF_MOST_ROWS = 800_000

REFERENCE, FBGEMM, KERAS_3, TF_KERAS, TFRS = "reference", "fbgemm", "keras_3", "tf_keras", "tfrs"
PEERS = (REFERENCE, FBGEMM, KERAS_3, TF_KERAS, TFRS)


@dataclasses.dataclass(frozen=True)
class Case:
    """One kind of step.

    Attributes:
        table_rows: Rows of each table.
        ids: Ids in each bag of each table; with `ragged` the most, and the least is 1.
        dim: Width of the tables.
        dense: Number of dense features.
        bottom: Units of the bottom MLP.
        top: Units of the top MLP.
        batch: Rows in a batch.
        optimizer: "sgd", "adagrad" or "rowwise_adagrad" of the tables; the MLPs use SGD, or with
            the other two Adagrad.
        ragged: Whether bags differ in size.
        popular: Whether ids fall off as a power law; else all are alike.
        inference: Whether batches are only scored.
        peers: With whom it is compared.
    """

    table_rows: tuple[int, ...]
    ids: tuple[int, ...]
    dim: int
    dense: int
    bottom: tuple[int, ...]
    top: tuple[int, ...]
    batch: int
    optimizer: str = "sgd"
    ragged: bool = False
    popular: bool = True
    inference: bool = False
    peers: tuple[str, ...] = (REFERENCE, FBGEMM)

    def bytes_of_tables(self) -> int:
        """Returns the bytes of the tables and their slots."""
        slots = {"sgd": 0, "adagrad": self.dim, "rowwise_adagrad": 1}[self.optimizer]
        return sum(self.table_rows) * 4 * (self.dim + (0 if self.inference else slots))

    def products(self) -> int:
        """Returns the floating-point operations of the dense part of a batch."""
        vectors = 1 + len(self.table_rows)
        pairs = vectors * (vectors - 1) // 2
        bottom = (self.dense, *self.bottom)
        top = (self.dim + pairs, *self.top)
        count = sum(a * b for w in (bottom, top) for a, b in itertools.pairwise(w))
        count += pairs * self.dim
        # The gradient of the dense features is not needed.
        passes = 2 if self.inference else 6
        return self.batch * (passes * count - (0 if self.inference else 2 * bottom[0] * bottom[1]))

    def random_batch(self, seed: int) -> tuple[np.ndarray, list, list, np.ndarray]:
        """Returns dense [batch, dense], ids [n] and lengths [batch] of each table, and labels."""
        rng = np.random.default_rng(seed)
        values, lengths = [], []
        for rows, most in zip(self.table_rows, self.ids, strict=True):
            own: np.ndarray = np.full(self.batch, most, np.int32)
            if self.ragged:
                own = rng.integers(1, most + 1, self.batch, np.int32)
            count = int(own.sum())
            drawn = rng.zipf(ALPHA, count) % rows if self.popular else rng.integers(0, rows, count)
            values.append(drawn.astype(np.int32))
            lengths.append(own)
        dense = rng.random((self.batch, self.dense), dtype=np.float32)
        return dense, values, lengths, (rng.random(self.batch) < 0.25).astype(np.float32)

    def batches(self) -> list[tuple[np.ndarray, list, list, np.ndarray]]:
        """Returns batches that every system gets, all different."""
        return [self.random_batch(seed) for seed in range(BATCHES)]

    def to_json(self) -> str:
        """Returns the case as a command-line argument."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Case:
        """Returns the case that `to_json` wrote."""
        values: dict[str, Any] = json.loads(text)
        lists = {name: tuple(v) for name, v in values.items() if isinstance(v, list)}
        return cls(**(values | lists))


_SAMPLE = Case(
    table_rows=(1_000_000,) * 8,
    ids=(100,) * 8,
    dim=64,
    dense=512,
    bottom=(512, 512, 64),
    top=(1024, 1024, 1024, 1),
    batch=2048,
    ragged=True,
    popular=False,
)
_KAGGLE = Case(
    table_rows=TABLE_ROWS,
    ids=(1,) * len(TABLE_ROWS),
    dim=16,
    dense=DENSE_FEATURES,
    bottom=(512, 256, 64, 16),
    top=(512, 256, 1),
    batch=2048,
)
_MLPERF = Case(
    table_rows=tuple(min(rows, _MLPERF_MOST_ROWS) for rows in _MLPERF_ROWS),
    ids=_MLPERF_IDS,
    dim=128,
    dense=13,
    bottom=(512, 256, 128),
    top=(1024, 1024, 512, 256, 1),
    batch=2048,
    optimizer="rowwise_adagrad",
    peers=(FBGEMM,),
)
_ALL = (REFERENCE, FBGEMM, KERAS_3, TF_KERAS, TFRS)
CASES = {
    "sample, SGD": dataclasses.replace(_SAMPLE, peers=_ALL),
    "sample, Adagrad": dataclasses.replace(_SAMPLE, optimizer="adagrad", peers=(FBGEMM,)),
    "sample, row-wise Adagrad": dataclasses.replace(
        _SAMPLE, optimizer="rowwise_adagrad", peers=(FBGEMM,)
    ),
    "Kaggle, batch 128, SGD": dataclasses.replace(_KAGGLE, batch=128, peers=(REFERENCE, FBGEMM)),
    "Kaggle, batch 512, SGD": dataclasses.replace(_KAGGLE, batch=512, peers=(REFERENCE,)),
    "Kaggle, batch 2048, SGD": dataclasses.replace(_KAGGLE, peers=_ALL),
    "Kaggle, batch 2048, Adagrad": dataclasses.replace(
        _KAGGLE, optimizer="adagrad", peers=(REFERENCE, FBGEMM)
    ),
    "Kaggle, batch 16384, SGD": dataclasses.replace(_KAGGLE, batch=16384, peers=(REFERENCE,)),
    "MLPerf multi-hot, row-wise Adagrad": _MLPERF,
    "Kaggle, scoring batch 1": dataclasses.replace(_KAGGLE, batch=1, inference=True),
    "Kaggle, scoring batch 128": dataclasses.replace(_KAGGLE, batch=128, inference=True),
    "Kaggle, scoring batch 2048": dataclasses.replace(_KAGGLE, inference=True),
}


def serve(case: Case, run_steps: Callable[[int], float]) -> None:
    """Answers each line of standard input, a number of steps, with a line of numbers.

    They are the milliseconds of one step: in training the mean; in scoring, where each is timed,
    the median and the 99th percentile.

    Args:
        case: The work.
        run_steps: Does a number of steps and returns a loss or any score of the last one.
    """
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        steps = int(line)
        if case.inference:
            times = []
            for _ in range(steps):
                start = time.perf_counter()
                last = run_steps(1)
                times.append(1000 * (time.perf_counter() - start))
            numbers = [float(np.percentile(times, q)) for q in (50, 99)]
        else:
            start = time.perf_counter()
            last = run_steps(steps)
            numbers = [1000 * (time.perf_counter() - start) / steps]
        if not np.isfinite(last):
            raise SystemExit(f"The last loss is {last}.")
        sys.stdout.write(" ".join(map(str, numbers)) + "\n")
        sys.stdout.flush()
