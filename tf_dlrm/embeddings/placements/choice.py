"""The placement that suits the current strategy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from tf_dlrm.embeddings.config import FeatureConfig, tables_of
from tf_dlrm.embeddings.placements.all_to_all import (
    AllToAll,
    CrossProcessAllToAll,
    InProcessAllToAll,
)
from tf_dlrm.embeddings.placements.local import LocalPlacement
from tf_dlrm.embeddings.placements.model_parallel import ModelParallelPlacement
from tf_dlrm.embeddings.placements.parameter_server import ParameterServerPlacement
from tf_dlrm.embeddings.placements.placement import Placement
from tf_dlrm.embeddings.placements.serving import ServingPlacement, ServingPlan
from tf_dlrm.embeddings.plan import DATA_PARALLEL, ROW_WISE, TABLE_WISE, Plan, TablePlan
from tf_dlrm.tpu.placement import TpuPlan, make_tpu_placement

AnyPlan = Plan | TpuPlan | ServingPlan
COMMUNICATION_DTYPES = ("float32", "bfloat16")
# A copy of a smaller table on every device costs less than an exchange of its rows.
_SMALL_TABLE_ROWS = 10_000
_ALL_TO_ALLS: dict[type, Callable[[tf.distribute.Strategy], AllToAll]] = {
    tf.distribute.MirroredStrategy: InProcessAllToAll,
    tf.distribute.MultiWorkerMirroredStrategy: CrossProcessAllToAll,
}


def make_placement(
    features: Sequence[FeatureConfig],
    seed: int = 0,
    plan: AnyPlan | None = None,
    communication_dtype: str = "float32",
) -> Placement:
    """Creates the tables of the features under the current strategy.

    Args:
        features: The features and their tables.
        seed: Seed of the first values.
        plan: Where each table is, under a strategy of several replicas; None for a default: large
            tables by rows over all replicas, a copy of small ones on each. For a TPU, a `TpuPlan`,
            with which one device stands in for a TPU. For an export, a `ServingPlan`.
        communication_dtype: "float32" or "bfloat16".

    Raises:
        ValueError: If there is no placement for the strategy, or the plan does not fit.
    """
    if communication_dtype not in COMMUNICATION_DTYPES:
        raise ValueError(
            f"communication_dtype must be one of {COMMUNICATION_DTYPES}, but is "
            f"{communication_dtype!r}."
        )
    if isinstance(plan, ServingPlan):
        return ServingPlacement(features, plan)
    strategy = tf.distribute.get_strategy()
    replicas = strategy.num_replicas_in_sync
    if isinstance(plan, TpuPlan) or isinstance(strategy, tf.distribute.TPUStrategy):
        return make_tpu_placement(features, plan, seed)
    if isinstance(strategy, tf.distribute.ParameterServerStrategy):
        servers = server_devices()
        plan = plan or server_plan(features, len(servers))
        return ParameterServerPlacement(features, plan, servers, seed)
    all_to_all = _ALL_TO_ALLS.get(type(strategy))
    if tf.distribute.in_cross_replica_context() and all_to_all:
        plan = plan or default_plan(features, replicas)
        return ModelParallelPlacement(
            features,
            plan,
            all_to_all(strategy),
            dict(zip(replicas_here(strategy), strategy.extended.worker_devices, strict=True)),
            seed,
            tf.as_dtype(communication_dtype),
        )
    if replicas != 1:
        raise ValueError(
            f"EmbeddingCollection has no placement for {type(strategy).__name__} with {replicas} "
            f"replicas; it has some for {', '.join(known.__name__ for known in _ALL_TO_ALLS)}, "
            "under which a layer must be built within strategy.scope()."
        )
    if plan is not None:
        plan.check(features)
    return LocalPlacement(features, seed)


def replicas_here(strategy: tf.distribute.Strategy) -> range:
    """Returns the numbers of the replicas of this process."""
    here = len(strategy.extended.worker_devices)
    if here == strategy.num_replicas_in_sync:
        return range(here)
    first = int(strategy.cluster_resolver.task_id) * here
    return range(first, first + here)


def server_devices() -> list[str]:
    """Returns the CPUs of the parameter servers to which this process is connected."""
    devices = tf.config.list_logical_devices("CPU")
    return [d.name for d in devices if "/job:ps/" in d.name and d.name.endswith(":CPU:0")]


def server_plan(features: Sequence[FeatureConfig], servers: int) -> Plan:
    """Returns a plan for parameter servers: large tables by rows over all of them.

    Small tables go as a whole, the largest first, to the server that has the fewest numbers.
    """
    tables = {}
    load = [0] * servers
    for table in sorted(tables_of(features), key=lambda t: -t.vocabulary_size * t.dim):
        if table.vocabulary_size >= _SMALL_TABLE_ROWS and servers > 1:
            tables[table.name] = TablePlan(ROW_WISE, tuple(range(servers)))
        else:
            least = load.index(min(load))
            load[least] += table.vocabulary_size * table.dim
            tables[table.name] = TablePlan(TABLE_WISE, (least,))
    return Plan(servers, tables)


def default_plan(features: Sequence[FeatureConfig], devices: int) -> Plan:
    """Returns a plan that needs no knowledge of hardware: see `make_placement`."""
    tables = {}
    for table in tables_of(features):
        if table.vocabulary_size < _SMALL_TABLE_ROWS:
            tables[table.name] = TablePlan(DATA_PARALLEL)
        else:
            tables[table.name] = TablePlan(ROW_WISE, tuple(range(devices)))
    return Plan(devices, tables)
