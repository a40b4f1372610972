"""The placement that suits the current strategy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tf_dlrm.embeddings.config import FeatureConfig, tables_of
from tf_dlrm.embeddings.lookup import Placement
from tf_dlrm.embeddings.plan import DATA_PARALLEL, ROW_WISE, TABLE_WISE, Plan, TablePlan
from tf_dlrm.embeddings.stores.all_to_all import (
    AllToAll,
    CrossProcessAllToAll,
    InProcessAllToAll,
)
from tf_dlrm.embeddings.stores.exchange import ModelParallelPlacement
from tf_dlrm.embeddings.stores.frozen import FrozenPlacement, FrozenTables
from tf_dlrm.embeddings.stores.local import LocalPlacement
from tf_dlrm.embeddings.stores.servers import ParameterServerPlacement

# From features, plan, seed and communication dtype to their tables under the current strategy.
MakePlacement = Callable[[Sequence[FeatureConfig], Any, int, tf.DType], Placement]
COMMUNICATION_DTYPES = ("float32", "bfloat16")
# A copy of a smaller table on every device costs less than an exchange of its rows.
_SMALL_TABLE_ROWS = 10_000
_MAKERS: dict[type, MakePlacement] = {}


def register(kind: type, make: MakePlacement) -> None:
    """Makes a placement known to `make_placement`.

    `kind` is the type of strategy under which it is made, or a type of plan, which decides alone.
    """
    _MAKERS[kind] = make


def make_placement(
    features: Sequence[FeatureConfig],
    seed: int = 0,
    plan: Any = None,
    communication_dtype: str = "float32",
) -> Placement:
    """Creates the tables of the features under the current strategy.

    Args:
        features: The features and their tables.
        seed: Seed of the first values.
        plan: A `Plan` says where each table is, under a strategy of several replicas; None for a
            default: large tables by rows over all replicas, a copy of small ones on each. A plan
            of another type that is registered decides itself what is made: a `TpuPlan`, with which
            one device stands in for a TPU; for an export, a `FrozenTables`.
        communication_dtype: "float32" or "bfloat16".

    Raises:
        ValueError: If there is no placement for the strategy, or the plan does not fit.
    """
    if communication_dtype not in COMMUNICATION_DTYPES:
        raise ValueError(
            f"communication_dtype must be one of {COMMUNICATION_DTYPES}, but is "
            f"{communication_dtype!r}."
        )
    strategy = tf.distribute.get_strategy()
    kinds = (type(plan), *type(strategy).__mro__)
    make = next((_MAKERS[kind] for kind in kinds if kind in _MAKERS), _make_local)
    return make(features, plan, seed, tf.as_dtype(communication_dtype))


def _make_local(
    features: Sequence[FeatureConfig], plan: Plan | None, seed: int, dtype: tf.DType
) -> Placement:
    strategy = tf.distribute.get_strategy()
    replicas = strategy.num_replicas_in_sync
    if replicas != 1:
        known = [kind.__name__ for kind in _MAKERS if issubclass(kind, tf.distribute.Strategy)]
        raise ValueError(
            f"EmbeddingCollection has no placement for {type(strategy).__name__} with {replicas} "
            f"replicas; it has some for {', '.join(known)}, under which a layer must be built "
            "within strategy.scope()."
        )
    if plan is not None:
        plan.check(features)
    return LocalPlacement(features, seed)


def _model_parallel(all_to_all: Callable[[tf.distribute.Strategy], AllToAll]) -> MakePlacement:
    def make(
        features: Sequence[FeatureConfig], plan: Plan | None, seed: int, dtype: tf.DType
    ) -> Placement:
        if not tf.distribute.in_cross_replica_context():
            return _make_local(features, plan, seed, dtype)
        strategy = tf.distribute.get_strategy()
        return ModelParallelPlacement(
            features,
            plan or default_plan(features, strategy.num_replicas_in_sync),
            all_to_all(strategy),
            dict(zip(replicas_here(strategy), strategy.extended.worker_devices, strict=True)),
            seed,
            dtype,
        )

    return make


def _make_on_servers(
    features: Sequence[FeatureConfig], plan: Plan | None, seed: int, dtype: tf.DType
) -> Placement:
    servers = server_devices()
    plan = plan or server_plan(features, len(servers))
    return ParameterServerPlacement(features, plan, servers, seed)


register(FrozenTables, lambda features, plan, seed, dtype: FrozenPlacement(features, plan))
register(tf.distribute.MirroredStrategy, _model_parallel(InProcessAllToAll))
register(tf.distribute.MultiWorkerMirroredStrategy, _model_parallel(CrossProcessAllToAll))
register(tf.distribute.ParameterServerStrategy, _make_on_servers)


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
    everywhere, cut = TablePlan(DATA_PARALLEL), TablePlan(ROW_WISE, tuple(range(devices)))
    return Plan(
        devices,
        {
            table.name: everywhere if table.vocabulary_size < _SMALL_TABLE_ROWS else cut
            for table in tables_of(features)
        },
    )
