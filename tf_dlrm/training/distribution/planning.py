"""Where a run has its tables, on several devices."""

from __future__ import annotations

import collections
import logging

from tf_dlrm.embeddings import stored_features
from tf_dlrm.embeddings.plan import Plan
from tf_dlrm.errors import UserError
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
    plan = load_plan(config.distribution)
    if plan is None:
        features = build_features(config.model, config.optimizer, source.schema)
        hotness = mean_hotness(source)
        hotness = {s.name: hotness[f.name] for f in features for s in stored_features([f])}
        try:
            plan = make_plan(stored_features(features), devices, config.run.batch_size, hotness)
        except ValueError as error:
            raise UserError(str(error)) from error
    log_plan(plan)
    return plan


def log_plan(plan: Plan) -> None:
    """Says in the log how the tables are cut."""
    counts = collections.Counter(table.sharding for table in plan.tables.values())
    tables = ", ".join(f"{number} {name}" for name, number in counts.items())
    _LOG.info("%d devices; tables: %s", plan.devices, tables)


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
