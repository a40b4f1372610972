"""Times a training step of `criteo_kaggle.flags` against facebookresearch/dlrm, in one run.

    python -m benchmarks.step --dlrm_dir=CHECKOUT --peer_python=PYTHON --batch_sizes=128,2048

Both systems hold the whole model (26 tables, 33.8M rows x 16) in a process of their own and take
turns, so that both see the same machine. Each turn is a stretch of steps on the same rows, which
are ready in memory. Prints a Markdown table: milliseconds a step (median, least and most of the
turns), and the ratio of each turn to the peer's turn right after it (above 1: ours is faster).
"""

from __future__ import annotations

import os
import statistics
import sys
from pathlib import Path

from absl import app, flags

from benchmarks.step_rows import serve
from benchmarks.step_worker import Worker

_HERE = Path(__file__).parent


def _define_flags() -> None:
    flags.DEFINE_string("dlrm_dir", None, "Checkout of facebookresearch/dlrm.", required=True)
    flags.DEFINE_string("peer_python", None, "Python that has PyTorch.", required=True)
    flags.DEFINE_list("batch_sizes", ["128", "2048"], "Batch sizes to time.")
    flags.DEFINE_integer("turns", 9, "Turns of each system.", lower_bound=3)
    flags.DEFINE_integer("rows_per_turn", 65536, "Training rows in a turn.", lower_bound=1)


def main(argv: list[str]) -> None:
    """Times all batch sizes and prints the table."""
    del argv
    values = flags.FLAGS
    lines = [
        "| batch | tf_dlrm ms | facebookresearch/dlrm ms | ratio (theirs / ours) |",
        "|---|---|---|---|",
    ]
    for batch_size in map(int, values.batch_sizes):
        ours = Worker([sys.executable, "-m", "benchmarks.step", "worker", str(batch_size)])
        peer = Worker(
            [
                values.peer_python,
                str(_HERE / "step_reference.py"),
                values.dlrm_dir,
                str(batch_size),
            ]
        )
        steps = max(1, values.rows_per_turn // batch_size)
        pairs = []
        for turn in range(values.turns + 1):
            pair = ours.milliseconds(steps), peer.milliseconds(steps)
            if turn:  # the first one warms up
                pairs.append(pair)
        ours.close()
        peer.close()
        columns = [[pair[k] for pair in pairs] for k in (0, 1)]
        columns.append([theirs / mine for mine, theirs in pairs])
        cells = [f"{statistics.median(c):.2f} ({min(c):.2f} to {max(c):.2f})" for c in columns]
        lines.append(f"| {batch_size} | " + " | ".join(cells) + " |")
    sys.stdout.write("\n".join(lines) + "\n")


def _serve_ours(batch_size: int) -> None:
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    from benchmarks import step_ours

    iterator = step_ours.batches(batch_size)
    _, training_steps = step_ours.build()
    serve(lambda steps: float(training_steps(iterator, tf.constant(steps))))


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        _serve_ours(int(sys.argv[2]))
    else:
        _define_flags()
        app.run(main)
