"""How a training step of Criteo Kaggle's shape scales over devices, and what exchanges cost.

    python -m benchmarks.scaling --batch_size=2048 --devices=1,2

Devices are logical CPUs of one process, so on N cores nothing beyond N devices can be gained, and
one device uses all cores already: what is seen is the cost of dividing the work. Large tables are
cut by rows, small ones copied. All configurations hold their model in a process of their own and
take turns. "Without exchange" is the same step whose pieces stay where they are: its numbers are
wrong, its work is the same, so the difference is what the exchanges and the waiting cost.

The last column is what the planner's cost model says of the same step, after a calibration.

Strong scaling: one batch divided over the devices; weak: one batch for each device.
"""

from __future__ import annotations

import os
import statistics
import sys

from absl import app, flags

from benchmarks.step_rows import serve
from benchmarks.step_worker import Worker


def _define_flags() -> None:
    flags.DEFINE_integer("batch_size", 2048, "Examples of a step on one device.")
    flags.DEFINE_list("devices", ["1", "2"], "Numbers of devices.")
    flags.DEFINE_integer("turns", 7, "Turns of each configuration.", lower_bound=3)
    flags.DEFINE_integer("rows_per_turn", 65536, "Training rows in a turn.", lower_bound=1)


def main(argv: list[str]) -> None:
    """Times all configurations and prints a table."""
    del argv
    values = flags.FLAGS
    cases = [("one device", 0, values.batch_size, "exchange")]
    for devices in map(int, values.devices):
        for kind, batch in (("strong", values.batch_size), ("weak", values.batch_size * devices)):
            for exchange in ("exchange", "stay"):
                if devices > 1 or (kind, exchange) == ("strong", "exchange"):
                    cases.append((f"{kind}, {devices} device(s)", devices, batch, exchange))
    times: dict[tuple[str, int, int, str], list[float]] = {case: [] for case in cases}
    command = [sys.executable, "-m", "benchmarks.scaling", "worker"]
    workers = {case: Worker([*command, *map(str, case[1:])]) for case in cases}
    for turn in range(values.turns + 1):
        for case, worker in workers.items():
            milliseconds = worker.milliseconds(max(1, values.rows_per_turn // case[2]))
            if turn:  # the first one warms up
                times[case].append(milliseconds)
    for worker in workers.values():
        worker.close()
    predicted = _predicted([case[1:3] for case in cases])
    lines = [
        "| | batch | ms a step | examples/s | times one device | exchanges | predicted ms |",
        "|---|---|---|---|---|---|---|",
    ]
    medians = {case: statistics.median(found) for case, found in times.items()}
    base = cases[0][2] / medians[cases[0]]
    for case, found in times.items():
        name, devices, batch, exchange = case
        if exchange == "stay":
            continue
        rate = batch / medians[case]
        stay = medians.get((name, devices, batch, "stay"))
        share = f"{1 - stay / medians[case]:.0%}" if stay else ""
        spread = f"{medians[case]:.1f} ({min(found):.1f} to {max(found):.1f})"
        lines.append(
            f"| {name} | {batch} | {spread} | {1000 * rate:,.0f} | {rate / base:.2f} | {share} "
            f"| {predicted[devices, batch]:.1f} |"
        )
    sys.stdout.write("\n".join(lines) + "\n")


def _predicted(cases: list[tuple[int, int]]) -> dict[tuple[int, int], float]:
    """Returns the milliseconds of a step that the planner predicts, calibrated on this machine."""
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from benchmarks import step_ours
    from tf_dlrm.embeddings.stores.choose import default_plan
    from tf_dlrm.planner import CostModel, Dense, Workload
    from tf_dlrm.planner.calibrate import calibrate
    from tf_dlrm.training.build import build_features
    from tf_dlrm.training.options.config import ModelOptions, OptimizerOptions

    schema, options = step_ours.schema(), ModelOptions()
    features = build_features(options, OptimizerOptions(), schema)
    dense = Dense(len(schema.dense), options.bottom_mlp, options.top_mlp)
    hardware = calibrate()
    found = {}
    for devices, batch in cases:
        count = max(1, devices)
        workload = Workload(batch, {}, step_ours.ALPHA, popular_first=True)
        model = CostModel(features, workload, hardware, count, dense)
        found[devices, batch] = 1000 * model.estimate(default_plan(features, count)).step
    return found


def _serve(devices: int, batch_size: int, exchange: str) -> None:
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    from benchmarks import step_ours
    from tf_dlrm.embeddings.stores.all_to_all import InProcessAllToAll
    from tf_dlrm.training.distribution.choose import distribution_of
    from tf_dlrm.training.options.distribution import DistributionOptions

    strategy = None
    if devices:
        strategy = distribution_of(
            DistributionOptions("mirrored", virtual_devices=devices)
        ).make_strategy()
    if exchange == "stay":
        stay = tf.autograph.experimental.do_not_convert(lambda self, pieces: pieces)
        InProcessAllToAll.exchange = stay  # type: ignore[method-assign]
    model, training_steps = step_ours.build(strategy)
    del model
    iterator = step_ours.batches(batch_size, strategy)
    serve(lambda steps: float(training_steps(iterator, tf.constant(steps))))


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        _serve(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    else:
        _define_flags()
        app.run(main)
