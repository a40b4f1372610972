"""Time of one table's lookup, backward pass and update, by number of rows and optimizer.

    python -m benchmarks.embedding_update [--rows 200000 2000000] [--dim 16] [--ids 2048]

Prints a Markdown table of milliseconds per step: the median of all steps, and the 10th and 90th
percentile. A row-sparse optimizer touches only the rows that were looked up, so the cost must not
grow in proportion to the number of rows.
"""

import argparse
import sys
import time
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tf_dlrm.embeddings import (
    FTRL,
    SGD,
    Adagrad,
    FeatureConfig,
    LazyAdam,
    Optimizer,
    RowWiseAdagrad,
    TableConfig,
)
from tf_dlrm.layers import EmbeddingCollection

OPTIMIZERS: tuple[Optimizer, ...] = (
    SGD(0.1),
    Adagrad(0.1),
    RowWiseAdagrad(0.1),
    LazyAdam(0.001),
    FTRL(0.1),
)


def measure(optimizer: Optimizer, rows: int, dim: int, ids: int, steps: int) -> np.ndarray:
    """Returns the milliseconds [steps] that each step took.

    Args:
        optimizer: Optimizer of the table.
        rows: Rows of the table.
        dim: Columns of the table.
        ids: Uniformly drawn ids per step.
        steps: Number of measured steps, after 10 that are not.
    """
    table = TableConfig("table", rows, dim, optimizer=optimizer)
    layer = EmbeddingCollection([FeatureConfig("feature", table)])
    layer.build()
    trap = tf.convert_to_tensor(layer.trap)

    @tf.function
    def step(batch: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(layer({"feature": batch})["feature"]))
        return tape.gradient(loss, [layer.trap])[0] + trap

    generator = np.random.default_rng(0)
    batches = [tf.constant(generator.integers(0, rows, ids, np.int64)) for _ in range(10 + steps)]
    times = []
    for batch in batches:
        start = time.perf_counter()
        step(batch).numpy()
        times.append((time.perf_counter() - start) * 1e3)
    return np.asarray(times[10:])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures what the command line asks for and writes the table to standard output."""
    parser = argparse.ArgumentParser(description="Time of one table's update by number of rows.")
    parser.add_argument("--rows", type=int, nargs="+", default=[200_000, 2_000_000, 20_000_000])
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--ids", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args(arguments)
    heads = "".join(f" {rows:,} rows |" for rows in options.rows)
    lines = [f"| ms per step |{heads}", "|---|" + "---|" * len(options.rows)]
    for optimizer in OPTIMIZERS:
        cells = []
        for rows in options.rows:
            times = measure(optimizer, rows, options.dim, options.ids, options.steps)
            low, middle, high = np.percentile(times, [10, 50, 90])
            cells.append(f" {middle:.2f} ({low:.2f} to {high:.2f}) |")
        lines.append(f"| {type(optimizer).__name__} |" + "".join(cells))
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
