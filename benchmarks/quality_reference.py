"""The quality and step time of facebookresearch/dlrm on Criteo rows.

Trains the reference's own model class, imported from a checkout that the caller names, with the
settings of its `bench/dlrm_s_criteo_kaggle.sh` (dim 16, bottom 13-512-256-64-16, top 512-256-1,
SGD 0.1, batch 128, one epoch, binary cross-entropy), and scores the last of seven days:

    python benchmarks/quality_reference.py --dlrm_dir=CHECKOUT --input=train.txt --seeds=0,1,2

Needs PyTorch, NumPy and scikit-learn. The last line on standard output is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import importlib.machinery
import importlib.util
import json
import statistics
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from criteo_rows import (
    BLANK_CATEGORY,
    CATEGORY_COLUMNS,
    DENSE_COLUMNS,
    CriteoRows,
    load_rows,
    report,
    score,
    split_last_day,
)

EMBEDDING_DIM = 16
BOTTOM_MLP = (DENSE_COLUMNS, 512, 256, 64, EMBEDDING_DIM)
TOP_MLP = (512, 256, 1)
LEARNING_RATE = 0.1
BATCH_SIZE = 128
EVALUATION_BATCH_SIZE = 16384
WARM_UP_STEPS = 10


@dataclasses.dataclass(frozen=True)
class ReferenceRows:
    """Rows as the reference feeds them to its model.

    Attributes:
        labels: float32 `[rows, 1]`.
        dense: float32 `[rows, 13]`, `log(max(x, 0) + 1)`, blanks 0.
        ids: int64 `[26, rows]`.
    """

    labels: torch.Tensor
    dense: torch.Tensor
    ids: torch.Tensor

    def select(self, rows: torch.Tensor | slice) -> ReferenceRows:
        """Returns the given rows, in the given order."""
        return ReferenceRows(self.labels[rows], self.dense[rows], self.ids[:, rows].contiguous())


def reference_rows(rows: CriteoRows) -> tuple[ReferenceRows, np.ndarray]:
    """Applies the reference's preprocessing (its `data_utils.py`, without an index range).

    A blank category is the value 0. Ids count values by first occurrence over all rows, the
    evaluation rows included, as the reference does.

    Args:
        rows: All rows, training and evaluation, in file order.

    Returns:
        The rows, and the table sizes int64 `[26]`.
    """
    values = np.where(rows.categories == BLANK_CATEGORY, 0, rows.categories)
    ids: np.ndarray = np.empty((CATEGORY_COLUMNS, len(rows)), np.int64)
    sizes: np.ndarray = np.empty(CATEGORY_COLUMNS, np.int64)
    for column in range(CATEGORY_COLUMNS):
        _, first, sorted_ids = np.unique(values[:, column], return_index=True, return_inverse=True)
        rank: np.ndarray = np.empty(len(first), np.int64)
        rank[np.argsort(first)] = np.arange(len(first))
        ids[column] = rank[sorted_ids]
        sizes[column] = len(first)
    dense = np.maximum(np.nan_to_num(rows.dense, nan=0.0), 0.0).astype(np.float32)
    return (
        ReferenceRows(
            torch.from_numpy(rows.labels.astype(np.float32)).view(-1, 1),
            torch.log(torch.from_numpy(dense) + 1),
            torch.from_numpy(ids),
        ),
        sizes,
    )


def import_reference(dlrm_dir: Path) -> types.ModuleType:
    """Imports `dlrm_s_pytorch` from a checkout of facebookresearch/dlrm.

    Its logging and export imports play no part in training; where they are not installed, empty
    modules stand in for them. What it prints while importing goes to standard error.

    Args:
        dlrm_dir: The checkout.

    Returns:
        The module, whose `DLRM_Net` is the model class.

    Raises:
        ValueError: The folder holds no `dlrm_s_pytorch.py`.
    """
    if not (dlrm_dir / "dlrm_s_pytorch.py").is_file():
        raise ValueError(
            f"--dlrm_dir={dlrm_dir} holds no dlrm_s_pytorch.py; it must be a checkout of "
            "https://github.com/facebookresearch/dlrm."
        )
    if importlib.util.find_spec("tensorboard") is None:
        _stand_in("torch.utils.tensorboard", "SummaryWriter")
    if importlib.util.find_spec("tqdm") is None:
        _stand_in("tqdm", "tqdm")
    sys.path.insert(0, str(dlrm_dir))
    with contextlib.redirect_stdout(sys.stderr):
        return importlib.import_module("dlrm_s_pytorch")


def _stand_in(module: str, name: str) -> None:
    stand_in = types.ModuleType(module)
    # PyTorch looks for the specification of every module that it knows.
    stand_in.__spec__ = importlib.machinery.ModuleSpec(module, None)
    setattr(stand_in, name, None)
    sys.modules[module] = stand_in


def build_model(reference: types.ModuleType, sizes: np.ndarray) -> torch.nn.Module:
    """Builds the reference's model with its own initialisation, drawn from NumPy's global state.

    Args:
        reference: The imported `dlrm_s_pytorch`.
        sizes: Rows of each table, `[26]`.

    Returns:
        A model whose forward pass takes dense, offsets and ids and gives probabilities.
    """
    vectors = CATEGORY_COLUMNS + 1
    top = (vectors * (vectors - 1) // 2 + EMBEDDING_DIM, *TOP_MLP)
    return reference.DLRM_Net(
        EMBEDDING_DIM,
        sizes,
        np.array(BOTTOM_MLP),
        np.array(top),
        arch_interaction_op="dot",
        sigmoid_top=len(top) - 2,
        loss_function="bce",
    )


def train_step(model: Any, optimizer: torch.optim.Optimizer, batch: ReferenceRows) -> float:
    """Runs one step as the reference's main loop does and returns the loss."""
    loss = model.loss_fn(_predict(model, batch), batch.labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach().numpy())


def _predict(model: Any, batch: ReferenceRows) -> torch.Tensor:
    offsets = torch.arange(len(batch.labels)).repeat(CATEGORY_COLUMNS, 1)
    return model(batch.dense, offsets, batch.ids)


def _batches(rows: ReferenceRows, batch_size: int) -> Iterator[ReferenceRows]:
    for start in range(0, len(rows.labels), batch_size):
        yield rows.select(slice(start, start + batch_size))


def run_seed(
    reference: types.ModuleType,
    sizes: np.ndarray,
    train: ReferenceRows,
    evaluation: ReferenceRows,
    seed: int,
    randomize: str,
) -> dict[str, float]:
    """Trains one epoch and scores the evaluation rows.

    Args:
        reference: The imported `dlrm_s_pytorch`.
        sizes: Rows of each table, `[26]`.
        train: Training rows in file order.
        evaluation: Evaluation rows.
        seed: For NumPy and PyTorch.
        randomize: "total" shuffles the training rows, "none" keeps the order of the file.

    Returns:
        The scores, and the mean training loss of the epoch.
    """
    np.random.seed(seed)
    torch.manual_seed(seed)
    if randomize == "total":
        # The reference permutes when it builds the training set and again, to no effect, when it
        # builds the test set; the initialisation that follows depends on both draws.
        order = np.random.permutation(len(train.labels))
        np.random.permutation(len(train.labels))
        train = train.select(torch.from_numpy(order))
    model = build_model(reference, sizes)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    losses = [
        train_step(model, optimizer, batch) * len(batch.labels)
        for batch in _batches(train, BATCH_SIZE)
    ]
    with torch.no_grad():
        probabilities = torch.cat(
            [_predict(model, batch) for batch in _batches(evaluation, EVALUATION_BATCH_SIZE)]
        )
    result = score(evaluation.labels.numpy().ravel(), probabilities.numpy().ravel())
    result["training_loss"] = sum(losses) / len(train.labels)
    return result


def time_steps(
    reference: types.ModuleType,
    sizes: np.ndarray,
    train: ReferenceRows,
    batch_size: int,
    steps: int,
) -> dict[str, float]:
    """Times training steps on real rows, the batches ready in memory.

    Args:
        reference: The imported `dlrm_s_pytorch`.
        sizes: Rows of each table, `[26]`.
        train: Training rows.
        batch_size: Rows of a batch.
        steps: Steps timed, after a warm-up.

    Returns:
        The median step and its quartiles, in milliseconds.
    """
    np.random.seed(0)
    torch.manual_seed(0)
    model = build_model(reference, sizes)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    batches = list(_batches(train, batch_size))[: WARM_UP_STEPS + steps]
    seconds = []
    for step in range(WARM_UP_STEPS + steps):
        batch = batches[step % len(batches)]
        started = time.perf_counter()
        train_step(model, optimizer, batch)
        seconds.append(time.perf_counter() - started)
    first, median, third = statistics.quantiles(seconds[WARM_UP_STEPS:], n=4)
    return {"median_ms": 1e3 * median, "quartile1_ms": 1e3 * first, "quartile3_ms": 1e3 * third}


def _integers(text: str) -> list[int]:
    return [int(item) for item in text.split(",") if item]


def main() -> None:
    """Reads the flags, runs every seed and prints the result as one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dlrm_dir", type=Path, required=True, help="reference checkout")
    parser.add_argument("--input", type=Path, required=True, help="Criteo Kaggle TSV")
    parser.add_argument("--seeds", type=_integers, default=[0, 1, 2, 3, 4], help="0,1,2")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch")
    parser.add_argument("--randomize", choices=("total", "none"), default="total")
    parser.add_argument("--timing_batch_sizes", type=_integers, default=[], help="128,2048")
    parser.add_argument("--timing_steps", type=int, default=100)
    flags = parser.parse_args()
    if flags.timing_steps < 2:
        parser.error(f"--timing_steps must be 2 or more, got {flags.timing_steps}.")
    torch.set_num_threads(flags.threads)

    try:
        reference = import_reference(flags.dlrm_dir.resolve())
        rows = load_rows(flags.input)
        first_days, _ = split_last_day(rows)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    everything, sizes = reference_rows(rows)
    train = everything.select(slice(0, len(first_days)))
    evaluation = everything.select(slice(len(first_days), None))
    report(f"{len(train.labels)} training rows, {len(evaluation.labels)} evaluation rows")

    runs = []
    for seed in flags.seeds:
        started = time.perf_counter()
        run = run_seed(reference, sizes, train, evaluation, seed, flags.randomize)
        runs.append({"seed": seed, **run})
        report(f"{time.perf_counter() - started:.1f} s: {runs[-1]}")
    result: dict[str, Any] = {
        "randomize": flags.randomize,
        "threads": flags.threads,
        "train_rows": len(train.labels),
        "evaluation_rows": len(evaluation.labels),
        "embedding_rows": int(sizes.sum()),
        "runs": runs,
    }
    for name in ("auc", "log_loss", "accuracy") if runs else ():
        values = [run[name] for run in runs]
        result[f"{name}_mean"] = statistics.fmean(values)
        result[f"{name}_deviation"] = statistics.stdev(values) if len(values) > 1 else None
    result["step_time"] = {
        str(size): time_steps(reference, sizes, train, size, flags.timing_steps)
        for size in flags.timing_batch_sizes
    }
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
