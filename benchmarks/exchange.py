"""What devices exchange in a step of tables with popular ids, and how long the step takes.

    python -m benchmarks.exchange --checkouts=../before,. --devices=2,4

Each configuration is a process of its own, of one of the checkouts; they take turns, and the
medians are printed. Devices are logical CPUs of one process. The bytes are those that leave a
device for others in one step, counted where TensorFlow's all-to-all is given them.

`table_wise`: 100 ids of a power law in each bag, tables whole on one device each. `row_wise`: one
id, tables cut by rows.
"""

from __future__ import annotations

import os
import statistics
import sys
from pathlib import Path
from typing import Any

from absl import app, flags

_HERE = Path(__file__).resolve()
# Tables, rows of each, ids of a bag, bags of a step.
_SHAPES = {"table_wise": (4, 200_000, 100, 1024), "row_wise": (8, 1_000_000, 1, 8192)}
_DIM = 32
_BATCHES = 4


def _define_flags() -> None:
    flags.DEFINE_list("checkouts", ["."], "Folders of the versions that are compared.")
    flags.DEFINE_list("devices", ["2", "4"], "Numbers of devices.")
    flags.DEFINE_integer("turns", 5, "Turns of each configuration.", lower_bound=3)
    flags.DEFINE_integer("steps", 10, "Steps in a turn.", lower_bound=1)


def main(argv: list[str]) -> None:
    """Times all configurations and prints a table."""
    del argv
    from benchmarks.step_worker import Worker

    values = flags.FLAGS
    print("| sharding | devices | version | MB a step and device | ms a step |")
    print("|---|---|---|---|---|")
    for sharding in _SHAPES:
        for devices in values.devices:
            workers = {}
            for checkout in values.checkouts:
                run = f"cd {checkout} && exec {sys.executable} {_HERE} worker {devices} {sharding}"
                workers[checkout] = Worker(["env", "-u", "PYTHONPATH", "bash", "-c", run])
            sent = {checkout: worker.ask("bytes")[0] for checkout, worker in workers.items()}
            times: dict[str, list[float]] = {checkout: [] for checkout in workers}
            for turn in range(values.turns + 1):
                for checkout, worker in workers.items():
                    milliseconds = worker.milliseconds(values.steps)
                    if turn:  # the first one warms up
                        times[checkout].append(milliseconds)
            for checkout, worker in workers.items():
                worker.close()
                median = statistics.median(times[checkout])
                megabytes = sent[checkout] / 1e6
                print(f"| {sharding} | {devices} | {checkout} | {megabytes:.2f} | {median:.1f} |")


def _serve(devices: int, sharding: str) -> None:
    """Answers numbers of steps with milliseconds, and "bytes" with what leaves a device."""
    sys.path[0] = os.getcwd()
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import time

    import numpy as np
    import tensorflow as tf
    from tensorflow.python.ops import gen_collective_ops

    from tf_dlrm.embeddings import Adagrad, FeatureConfig, TableConfig
    from tf_dlrm.embeddings.plan import Plan, TablePlan
    from tf_dlrm.keras_api import keras
    from tf_dlrm.layers import EmbeddingCollection

    tables, rows, hotness, bags = _SHAPES[sharding]
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * devices
    )
    strategy = tf.distribute.MirroredStrategy(
        [f"/cpu:{k}" for k in range(devices)],
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )
    sent: dict[int, list[tf.Tensor]] = {}
    original = gen_collective_ops.collective_all_to_all_v3

    def counted(**inputs: Any) -> tf.Tensor:
        pieces = inputs["input"]
        sent.setdefault(replica(), []).append(tf.size(pieces) * pieces.dtype.size)
        return original(**inputs)

    def replica() -> int:
        context = tf.distribute.get_replica_context()
        return int(tf.get_static_value(context.replica_id_in_sync_group))

    gen_collective_ops.collective_all_to_all_v3 = counted
    features, plans = [], {}
    for k in range(tables):
        features.append(
            FeatureConfig(f"f{k}", TableConfig(f"t{k}", rows, _DIM, optimizer=Adagrad(0.01)))
        )
        here = range(devices) if sharding == "row_wise" else [k % devices]
        plans[f"t{k}"] = TablePlan(sharding, tuple(here))
    with strategy.scope():
        layer = EmbeddingCollection(features, 0, Plan(devices, plans))
        layer({f.name: keras.Input((hotness,), dtype="int64") for f in features})
    rng = np.random.default_rng(0)

    def ids(_: tf.distribute.DistributedValues | None = None) -> dict[str, tf.Tensor]:
        drawn = rng.random((tables, bags // devices, hotness))
        # The inverse of a power law's distribution, so that the first rows are the popular ones.
        power = (((rows + 1.0) ** -0.05) * drawn + (1 - drawn)) ** -20.0 - 1
        of_tables = np.minimum(power, rows - 1).astype(np.int64)
        return {f"f{k}": tf.constant(own) for k, own in enumerate(of_tables)}

    batches = [strategy.experimental_distribute_values_from_function(ids) for _ in range(_BATCHES)]

    def step(batch: dict[str, tf.Tensor]) -> tf.Tensor:
        sent[replica()] = []
        with tf.GradientTape() as tape:
            vectors = layer(batch, training=True)
            loss = tf.add_n([tf.reduce_sum(tf.square(v - 1.0)) for v in vectors.values()])
        tape.gradient(loss, layer.trainable_variables)
        return tf.add_n(sent[replica()])

    timed = tf.function(lambda batch: strategy.run(step, (batch,)), autograph=False)
    timed(batches[0])
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        if line.strip() == "bytes":
            of_replicas = strategy.experimental_local_results(timed(batches[0]))
            # One piece of all stays where it is.
            answer = float(of_replicas[0]) * (devices - 1) / devices
        else:
            steps = int(line)
            start = time.perf_counter()
            for number in range(steps):
                timed(batches[number % _BATCHES])
            layer.tables.updates.numpy()
            answer = 1000 * (time.perf_counter() - start) / steps
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        _serve(int(sys.argv[2]), sys.argv[3])
    else:
        _define_flags()
        app.run(main)
