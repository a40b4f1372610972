"""The tf.distribute strategy of a run, and its share of the batches."""

from __future__ import annotations

import re
from typing import Any

import tensorflow as tf

from tf_dlrm.embeddings.placements.choice import replicas_here
from tf_dlrm.embeddings.plan import Plan
from tf_dlrm.errors import UserError
from tf_dlrm.training.distribution.connecting import connecting
from tf_dlrm.training.distribution.parameter_server import (
    is_server,
    make_parameter_server_strategy,
)
from tf_dlrm.training.distribution.tf_config import read_tf_config
from tf_dlrm.training.distribution.tpu import make_tpu_strategy
from tf_dlrm.training.options.distribution import DistributionOptions
from tfrecords import files
from tfrecords.json_values import shown
from tfrecords.tracing import traced_as_written

# A host's name or number, those of IPv6 in brackets.
_ADDRESS = re.compile(r"(?:\[[\da-fA-F:.]+\]|[^\s/:\[\]]+):(\d{1,5})", re.ASCII)


def make_strategy(options: DistributionOptions) -> tf.distribute.Strategy:
    """Returns the strategy that the options name.

    Raises:
        UserError: if there are no such devices, TensorFlow has started with others, or TF_CONFIG
            does not fit.
    """
    check_cluster(options)
    if options.distribution == "parameter_server":
        return make_parameter_server_strategy()
    if options.distribution == "multi_worker_mirrored":
        with connecting():
            return tf.distribute.MultiWorkerMirroredStrategy()
    if options.distribution == "tpu" and options.tpu != "host":
        return make_tpu_strategy(options)
    if options.distribution in ("one_device", "tpu"):
        return tf.distribute.get_strategy()
    if not options.virtual_devices:
        devices = tf.config.list_logical_devices("GPU")
        if not devices:
            raise UserError(
                "--distribution=mirrored found no GPU; --virtual_devices=2 makes two logical CPUs."
            )
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    count = options.virtual_devices
    cpu = tf.config.list_physical_devices("CPU")[0]
    there = tf.config.get_logical_device_configuration(cpu)
    if not there or len(there) < count:
        try:
            tf.config.set_logical_device_configuration(
                cpu, [tf.config.LogicalDeviceConfiguration()] * count
            )
        except RuntimeError as error:
            raise UserError(
                f"--virtual_devices={count} must be set before TensorFlow starts, which in this "
                f"process has {len(there or [1])} logical CPU(s) already."
            ) from error
    # Not by the default, TensorFlow's collectives: their keys begin anew with every strategy, and a
    # second one of the same process is taken for the first.
    return tf.distribute.MirroredStrategy(
        [f"/cpu:{k}" for k in range(count)],
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )


def check_cluster(options: DistributionOptions) -> None:
    """Refuses a cluster that does not fit: without it, each process would train by itself."""
    cluster, role, index = read_tf_config()
    tasks = sum(len(addresses) for addresses in cluster.values())
    if options.distribution == "multi_worker_mirrored":
        if set(cluster) != {"worker"}:
            raise UserError(
                "--distribution=multi_worker_mirrored needs a TF_CONFIG whose cluster has workers "
                f"and nothing else; it has {sorted(cluster) or 'nothing'}. python -m "
                "tf_dlrm.launch starts workers on this machine."
            )
        _check_task(cluster, role, index)
        return
    if options.distribution == "parameter_server":
        is_server()  # which checks the roles
        _check_task(cluster, role, index)
        return
    if tasks > 1:
        raise UserError(
            f"TF_CONFIG names a cluster of {tasks} processes, but "
            f"--distribution={options.distribution} runs in one; unset TF_CONFIG."
        )


def _check_task(cluster: dict[str, list[str]], role: Any, index: Any) -> None:
    if not isinstance(role, str) or role not in cluster:
        raise UserError(f"TF_CONFIG has the task {role!r}, but its cluster has {sorted(cluster)}.")
    if type(index) is not int or not 0 <= index < len(cluster[role]):
        raise UserError(
            f"TF_CONFIG has the task {role} {shown(index)}, but its cluster has "
            f"{len(cluster[role])} of that type; the first is 0."
        )
    seen = set()
    for address in (entry for entries in cluster.values() for entry in entries):
        match = _ADDRESS.fullmatch(address)
        if not match or not 0 < int(match[1]) < 65536:
            raise UserError(f"TF_CONFIG has the address {shown(address)}; each must be HOST:PORT.")
        if address in seen:
            raise UserError(
                f"TF_CONFIG has the address {address!r} twice; each process needs one of its own."
            )
        seen.add(address)


def load_plan(options: DistributionOptions) -> Plan | None:
    """Returns the plan that the options name, or None.

    Raises:
        UserError: if the file holds none.
    """
    if not options.plan:
        return None
    try:
        return Plan.from_json(files.read_bytes(options.plan).decode("utf-8"))
    except ValueError as error:
        raise UserError(f"--plan={options.plan}: {error}") from error


@traced_as_written
def distribute(strategy: tf.distribute.Strategy, batches: tf.data.Dataset) -> Any:
    """Gives each replica its share of every batch.

    Args:
        strategy: The strategy.
        batches: Batches of all replicas together.

    Returns:
        An iterable whose elements hold, for replica `k` of `n`, the rows `k`, `k + n`, ... of a
        batch. Shares differ by one row where a batch does not divide, and may be empty.
    """
    count = strategy.num_replicas_in_sync
    if count == 1:
        return batches
    here = replicas_here(strategy)

    def share(replica: Any, batch: Any) -> Any:
        return tf.nest.map_structure(lambda column: column[replica::count], batch)

    if len(here) == 1:
        # Every process cuts its share out of the same batches. TensorFlow's distributed data set
        # would ask all processes before every batch whether they have one.
        own = batches.map(lambda *batch: share(here[0], batch), tf.data.AUTOTUNE)
        return own.prefetch(tf.data.AUTOTUNE)

    def shares(*batch: Any) -> tf.data.Dataset:
        numbers = tf.data.Dataset.range(here.start, here.stop)
        return numbers.map(lambda replica: share(replica, batch))

    return strategy.distribute_datasets_from_function(lambda context: batches.flat_map(shares))
