"""The placement that suits the current strategy."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tf_dlrm.embeddings.config import FeatureConfig, tables_of
from tf_dlrm.embeddings.placements.all_to_all import InProcessAllToAll
from tf_dlrm.embeddings.placements.local import LocalPlacement
from tf_dlrm.embeddings.placements.model_parallel import ModelParallelPlacement
from tf_dlrm.embeddings.placements.placement import Placement
from tf_dlrm.embeddings.plan import DATA_PARALLEL, ROW_WISE, Plan, TablePlan

COMMUNICATION_DTYPES = ("float32", "bfloat16")
# A copy of a smaller table on every device costs less than an exchange of its rows.
_SMALL_TABLE_ROWS = 10_000


def make_placement(
    features: Sequence[FeatureConfig],
    seed: int = 0,
    plan: Plan | None = None,
    communication_dtype: str = "float32",
) -> Placement:
    """Creates the tables of the features under the current strategy.

    Args:
        features: The features and their tables.
        seed: Seed of the first values.
        plan: Where each table is, under a strategy of several replicas; None for a default: large
            tables by rows over all replicas, a copy of small ones on each.
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
    replicas = strategy.num_replicas_in_sync
    if (
        tf.distribute.in_cross_replica_context()
        and type(strategy) is tf.distribute.MirroredStrategy
    ):
        plan = plan or default_plan(features, replicas)
        return ModelParallelPlacement(
            features,
            plan,
            InProcessAllToAll(strategy),
            strategy.extended.worker_devices,
            seed,
            tf.as_dtype(communication_dtype),
        )
    if replicas != 1:
        raise ValueError(
            f"EmbeddingCollection has no placement for {type(strategy).__name__} with {replicas} "
            "replicas; it has one for MirroredStrategy, under which a layer must be built within "
            "strategy.scope()."
        )
    if plan is not None:
        plan.check(features)
    return LocalPlacement(features, seed)


def default_plan(features: Sequence[FeatureConfig], devices: int) -> Plan:
    """Returns a plan that needs no knowledge of hardware: see `make_placement`."""
    tables = {}
    for table in tables_of(features):
        if table.vocabulary_size < _SMALL_TABLE_ROWS:
            tables[table.name] = TablePlan(DATA_PARALLEL)
        else:
            tables[table.name] = TablePlan(ROW_WISE, tuple(range(devices)))
    return Plan(devices, tables)
