"""Where a training step of `criteo_kaggle.flags` spends its time, part by part.

    python -m benchmarks.step_parts --batch_sizes=128,2048

Times the compiled step, and the interaction and the tables alone, forward and backward with the
update, on the shapes they have in the step. Prints a Markdown table of milliseconds (medians); what
they leave over is the MLPs, and little else.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from absl import app, flags

from benchmarks.step_rows import random_rows


def _define_flags() -> None:
    flags.DEFINE_list("batch_sizes", ["128", "2048"], "Batch sizes to time.")
    flags.DEFINE_integer("turns", 7, "Timed stretches of each part.", lower_bound=3)
    flags.DEFINE_integer("rows_per_turn", 65536, "Training rows in a stretch.", lower_bound=1)


def _time(run: Callable[[int], object], batch_size: int) -> float:
    """Returns milliseconds a step, the median of the turns."""
    steps = max(1, flags.FLAGS.rows_per_turn // batch_size)
    run(steps)
    turns = []
    for _ in range(flags.FLAGS.turns):
        start = time.perf_counter()
        run(steps)
        turns.append(1000 * (time.perf_counter() - start) / steps)
    return statistics.median(turns)


def main(argv: Sequence[str]) -> None:
    """Times all batch sizes and prints the table."""
    del argv
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    from benchmarks import step_ours

    model, training_steps = step_ours.build()
    names = step_ours.NAMES
    dim, vectors = model.config.bottom_mlp[-1], 1 + len(names)

    def repeated(forward: Callable[..., tf.Tensor], *inputs: tf.Tensor) -> Callable[[int], object]:
        @tf.function
        def run(count: tf.Tensor) -> tf.Tensor:
            total = tf.constant(0.0)
            for _ in tf.range(count):
                # Depends on the last step, so that nothing is computed once for all of them.
                moved = [x + 0.0 * total if x.dtype.is_floating else x for x in inputs]
                with tf.GradientTape() as tape:
                    tape.watch([x for x in moved if x.dtype.is_floating])
                    # Squared, so that the gradient is no constant.
                    loss = tf.reduce_sum(tf.square(forward(*moved)))
                watched = [x for x in moved if x.dtype.is_floating]
                weights = tape.watched_variables()
                for gradient in tape.gradient(loss, [*watched, *weights]):
                    if gradient is not None:
                        total += 1e-20 * tf.reshape(gradient, [-1])[0]
            return total

        return lambda steps: float(run(tf.constant(steps)))

    def whole_steps(iterator: Any, steps: int) -> float:
        return float(training_steps(iterator, tf.constant(steps)))

    interaction: Any = model.interaction
    lines = ["| batch | whole step | interaction | tables |", "|---|---|---|---|"]
    for batch_size in map(int, flags.FLAGS.batch_sizes):
        iterator = step_ours.batches(batch_size)
        _, ids, _ = random_rows(batch_size)
        first = [tf.constant(column[:batch_size]) for column in ids]
        parts = [
            _time(partial(whole_steps, iterator), batch_size),
            _time(
                repeated(
                    lambda *x: interaction(list(x)),
                    *[tf.random.normal((batch_size, dim)) for _ in range(vectors)],
                ),
                batch_size,
            ),
            _time(
                repeated(
                    lambda *x: tf.concat(
                        list(model.embeddings(dict(zip(names, x, strict=True))).values()), 1
                    ),
                    *first,
                ),
                batch_size,
            ),
        ]
        lines.append(f"| {batch_size} | " + " | ".join(f"{part:.2f}" for part in parts) + " |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    _define_flags()
    app.run(main)
