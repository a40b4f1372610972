"""Where a training step of `criteo_kaggle.flags` spends its time, operation by operation.

    python -m benchmarks.step_profile --batch_sizes=128,2048

Asks TensorFlow's profiler. Prints a Markdown table for each batch size: milliseconds a step in each
kind of operation, and how often it ran. Operations run side by side: their sum exceeds the step.
"""

from __future__ import annotations

import collections
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from absl import app, flags

_STEPS = 30
# What the profiler records besides operations.
_AROUND = ("Process", "ParallelFor", "Done", "DoCompute", "Root", "Start", "Record")


def _define_flags() -> None:
    flags.DEFINE_list("batch_sizes", ["128", "2048"], "Batch sizes to profile.")
    flags.DEFINE_integer("operations", 14, "Kinds of operations to show.", lower_bound=1)


def _operations(folder: str) -> tuple[dict[str, float], dict[str, int]]:
    """Returns milliseconds a step, and runs a step, of each kind of operation."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    space = xplane_pb2.XSpace()
    (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
    space.ParseFromString(path.read_bytes())
    spent: dict[str, float] = collections.defaultdict(float)
    runs: dict[str, int] = collections.defaultdict(int)
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                name = plane.event_metadata[event.metadata_id].name.rsplit(":", 1)[-1]
                spent[name] += event.duration_ps / 1e9 / _STEPS
                runs[name] += 1
    kinds = {k for k in runs if runs[k] >= _STEPS and k not in _AROUND}
    return {k: spent[k] for k in kinds}, {k: runs[k] // _STEPS for k in kinds}


def main(argv: Sequence[str]) -> None:
    """Profiles all batch sizes and prints the tables."""
    del argv
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    from benchmarks import step_ours

    _, training_steps = step_ours.build()
    lines: list[str] = []
    for batch_size in map(int, flags.FLAGS.batch_sizes):
        iterator: Any = step_ours.batches(batch_size)
        float(training_steps(iterator, tf.constant(_STEPS)))
        start = time.perf_counter()
        float(training_steps(iterator, tf.constant(_STEPS)))
        step = 1000 * (time.perf_counter() - start) / _STEPS
        with tempfile.TemporaryDirectory() as folder:
            with tf.profiler.experimental.Profile(folder):
                float(training_steps(iterator, tf.constant(_STEPS)))
            spent, runs = _operations(folder)
        lines += [f"\n| batch {batch_size}: {step:.2f} ms a step | ms | runs |", "|---|---|---|"]
        for kind in sorted(spent, key=lambda k: -spent[k])[: flags.FLAGS.operations]:
            lines.append(f"| {kind} | {spent[kind]:.2f} | {runs[kind]} |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    _define_flags()
    app.run(main)
