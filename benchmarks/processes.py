"""How training scales over local processes, and how much memory each of them takes.

    python -m benchmarks.processes --workers=1,2,4

Random examples with the tables of Criteo Kaggle, capped at --max_vocabulary rows, dim 16 with exact
Adagrad. Every number of workers is a run of `tf_dlrm.launch` with --distribution=
multi_worker_mirrored, one worker alone being the local placement. On N cores nothing can be gained
beyond N workers. Memory is the highest resident set of a worker, less that of a run whose tables
have 10 rows at most. The prediction is the planner's, calibrated on this machine with all of its
cores for each worker, so it is right for one worker and too fast for more.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

from absl import app, flags

_SMALL = 10


def _define_flags() -> None:
    flags.DEFINE_list("workers", ["1", "2", "4"], "Numbers of workers.")
    flags.DEFINE_integer("batch_size", 2048, "Examples of a step of all workers together.")
    flags.DEFINE_integer("steps", 300, "Steps of a run.")
    flags.DEFINE_integer("turns", 3, "Runs of each number of workers.", lower_bound=1)
    flags.DEFINE_integer("max_vocabulary", 1_000_000, "Most rows of a table.")


def _run(workers: int, max_vocabulary: int, steps: int) -> tuple[float, list[int]]:
    """Returns the examples a second, and the peak bytes of each worker."""
    command = [sys.executable, "-m", "tf_dlrm.launch", f"--workers={workers}", "--"]
    command += ["--data=random", "--random_tables=criteo_kaggle"]
    command += [f"--random_max_vocabulary={max_vocabulary}", f"--train_steps={steps}"]
    command += ["--random_train_rows=10000000", "--random_evaluation_rows=1000"]
    command += ["--embedding_optimizer=adagrad", "--bottom_mlp=512,256,64,16"]
    command += ["--top_mlp=512,256,1", f"--batch_size={flags.FLAGS.batch_size}"]
    command += ["--distribution=multi_worker_mirrored"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path.cwd()
    )
    assert process.stderr is not None and process.stdout is not None
    pids: list[int] = []
    while len(pids) < workers:
        line = process.stderr.readline()
        if not line:
            raise RuntimeError(f"{' '.join(command)} did not start.")
        pids += [int(pid) for pid in re.findall(r"is process (\d+)", line)]
    peaks = dict.fromkeys(pids, 0)
    while process.poll() is None:
        for pid in pids:
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            found = re.search(r"VmHWM:\s+(\d+) kB", status)
            if found:
                peaks[pid] = max(peaks[pid], 1024 * int(found[1]))
        time.sleep(0.1)
    output, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(errors)
    return json.loads(output.splitlines()[-1])["examples_per_second"], list(peaks.values())


def _predicted(workers: int) -> float:
    """Returns the examples a second that the planner predicts."""
    from benchmarks import step_ours
    from tf_dlrm.embeddings.stores.choose import default_plan
    from tf_dlrm.planner import CostModel, Dense, Workload
    from tf_dlrm.planner.calibrate import calibrate
    from tf_dlrm.training.build import build_features
    from tf_dlrm.training.options.config import ModelOptions, OptimizerOptions
    from tfrecords.random_schema import random_schema, table_sizes

    options = ModelOptions(embedding_dim=16, bottom_mlp=(512, 256, 64, 16), top_mlp=(512, 256, 1))
    schema = random_schema(table_sizes(("criteo_kaggle",), flags.FLAGS.max_vocabulary), 13, 1)
    features = build_features(options, OptimizerOptions(embedding_optimizer="adagrad"), schema)
    dense = Dense(len(schema.dense), options.bottom_mlp, options.top_mlp)
    workload = Workload(flags.FLAGS.batch_size, {}, step_ours.ALPHA, popular_first=True)
    model = CostModel(features, workload, calibrate(), workers, dense)
    return flags.FLAGS.batch_size / model.estimate(default_plan(features, workers)).step


def main(argv: list[str]) -> None:
    """Runs all and prints a table."""
    del argv
    values = flags.FLAGS
    counts = [int(count) for count in values.workers]
    rates: dict[int, list[float]] = {count: [] for count in counts}
    memory: dict[int, list[int]] = {}
    for _ in range(values.turns):
        for count in counts:
            rate, memory[count] = _run(count, values.max_vocabulary, values.steps)
            rates[count].append(rate)
    lines = [
        "| workers | examples/s | times one | predicted | tables in each worker, MB |",
        "|---|---|---|---|---|",
    ]
    base = statistics.median(rates[counts[0]])
    for count in counts:
        _, idle = _run(count, _SMALL, values.steps)
        held = ", ".join(
            f"{(full - empty) / 1e6:,.0f}" for full, empty in zip(memory[count], idle, strict=True)
        )
        rate = statistics.median(rates[count])
        spread = f"{rate:,.0f} ({min(rates[count]):,.0f} to {max(rates[count]):,.0f})"
        lines.append(
            f"| {count} | {spread} | {rate / base:.2f} | {_predicted(count):,.0f} | {held} |"
        )
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    _define_flags()
    app.run(main)
