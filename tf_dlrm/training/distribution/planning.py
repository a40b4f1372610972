"""Where a run has its tables, on several devices."""

from __future__ import annotations

import collections
import logging
from collections.abc import Callable, Sequence

from tf_dlrm.embeddings import FeatureConfig, stored_features
from tf_dlrm.embeddings.plan import Plan
from tf_dlrm.errors import as_user_error
from tf_dlrm.planner import make_plan
from tf_dlrm.training.build import build_features
from tf_dlrm.training.options.config import TrainingConfig
from tf_dlrm.training.options.distribution import DistributionOptions
from tf_dlrm.training.sources import Source, mean_hotness
from tfrecords import files

_LOG = logging.getLogger(__name__)


def plan_for_replicas(config: TrainingConfig, source: Source, devices: int) -> Plan | None:
    """Returns the plan that is given, or the planner's; None on one device.

    Raises:
        UserError: If there is no such plan, or none that fits.
    """
    if devices == 1:
        return None

    def make(features: Sequence[FeatureConfig]) -> Plan:
        hotness = mean_hotness(source)
        hotness = {s.name: hotness[f.name] for f in features for s in stored_features([f])}
        with as_user_error():
            return make_plan(stored_features(features), devices, config.run.batch_size, hotness)

    return given_or_made(config, source, make)


def given_or_made(
    config: TrainingConfig, source: Source, make: Callable[[Sequence[FeatureConfig]], Plan]
) -> Plan:
    """Returns the plan that the options name, or what `make` makes of the features; logs it."""
    plan = load_plan(config.distribution)
    if plan is None:
        plan = make(build_features(config.model, config.optimizer, source.schema))
    counts = collections.Counter(table.sharding for table in plan.tables.values())
    tables = ", ".join(f"{number} {name}" for name, number in counts.items())
    _LOG.info("%d devices; tables: %s", plan.devices, tables)
    return plan


def load_plan(options: DistributionOptions) -> Plan | None:
    """Returns the plan that the options name, or None.

    Raises:
        UserError: if the file holds none.
    """
    if not options.plan:
        return None
    with as_user_error(f"--plan={options.plan}: "):
        return Plan.from_json(files.read_bytes(options.plan).decode("utf-8"))
