"""The peer's half of `benchmarks.step`: steps of facebookresearch/dlrm, in a Python with torch."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from quality_reference import (
    LEARNING_RATE,
    ReferenceRows,
    build_model,
    import_reference,
    train_step,
)
from step_rows import BATCHES, TABLE_ROWS, random_rows, serve


def main(dlrm_dir: str, batch_size: int) -> None:
    """Builds the reference's Criteo Kaggle model and serves step times."""
    dense, ids, labels = random_rows(batch_size)
    rows = ReferenceRows(
        torch.from_numpy(labels).view(-1, 1),
        torch.from_numpy(dense),
        torch.from_numpy(ids.astype(np.int64)),
    )
    batches = [rows.select(slice(k * batch_size, (k + 1) * batch_size)) for k in range(BATCHES)]
    answers = sys.stdout
    sys.stdout = sys.stderr  # the reference prints
    model = build_model(import_reference(Path(dlrm_dir).resolve()), np.array(TABLE_ROWS))
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    sys.stdout = answers

    def run_steps(steps: int) -> None:
        for step in range(steps):
            train_step(model, optimizer, batches[step % BATCHES])

    serve(run_steps)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
