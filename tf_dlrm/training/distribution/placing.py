"""Where a run has its tables, and copies of its model in this process."""

from __future__ import annotations

import collections
import logging
from collections.abc import Callable

import tensorflow as tf

from tf_dlrm.embeddings import stored_features
from tf_dlrm.embeddings.placements.choice import server_devices, server_plan
from tf_dlrm.embeddings.plan import Plan
from tf_dlrm.errors import UserError
from tf_dlrm.models import Ensemble, RankingModel
from tf_dlrm.planner import make_plan
from tf_dlrm.tpu.placement import TpuPlan
from tf_dlrm.training.build import build_features, build_model, copy_weights
from tf_dlrm.training.distribution.strategy import load_plan
from tf_dlrm.training.options.config import TrainingConfig
from tf_dlrm.training.sources import Source, mean_hotness
from tf_dlrm.training.steps import make_logits
from tfrecords.schema import Schema

_LOG = logging.getLogger(__name__)


def plan_tables(
    config: TrainingConfig, source: Source, strategy: tf.distribute.Strategy
) -> Plan | TpuPlan | None:
    """Returns the plan that is given, or makes one; None on one device."""
    schema = source.schema
    if config.distribution.distribution == "tpu":
        return TpuPlan(
            max(1, config.run.batch_size // strategy.num_replicas_in_sync),
            config.distribution.tpu_small_table_rows,
            config.distribution.tpu_pipelining,
        )
    servers = config.distribution.distribution == "parameter_server"
    devices = len(server_devices()) if servers else strategy.num_replicas_in_sync
    if devices == 1 and not servers:
        return None
    plan = load_plan(config.distribution)
    if plan is None and servers:
        features = build_features(config.model, config.optimizer, schema)
        plan = server_plan(stored_features(features), devices)
    elif plan is None:
        features = build_features(config.model, config.optimizer, schema)
        hotness = mean_hotness(source)
        hotness = {s.name: hotness[f.name] for f in features for s in stored_features([f])}
        try:
            plan = make_plan(stored_features(features), devices, config.run.batch_size, hotness)
        except ValueError as error:
            raise UserError(str(error)) from error
    counts = collections.Counter(table.sharding for table in plan.tables.values())
    _LOG.info(
        "%d devices; tables: %s", devices, ", ".join(f"{n} {name}" for name, n in counts.items())
    )
    return plan


def evaluated_logits(
    config: TrainingConfig,
    schema: Schema,
    model: RankingModel | Ensemble,
    strategy: tf.distribute.Strategy,
) -> Callable[[], Callable[[dict[str, tf.Tensor]], tf.Tensor]]:
    """Returns a function that returns the logits function of the model as it is at that moment."""
    if config.distribution.distribution != "tpu":
        logits = make_logits(model, strategy)
        return lambda: logits
    # The embedding hardware serves training only.
    local = build_model(config.model, config.optimizer, schema, config.run.seed)
    logits = make_logits(local)

    def copied() -> Callable[[dict[str, tf.Tensor]], tf.Tensor]:
        copy_weights(model, local)
        return logits

    return copied
