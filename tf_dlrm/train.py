"""Trains a model: python -m tf_dlrm.train --flagfile=flags/X.flags [--flag=value ...]."""

from __future__ import annotations

from typing import Any

from tf_dlrm import entry_point
from tf_dlrm.training.config import (
    DataOptions,
    DistributionOptions,
    ModelOptions,
    OptimizerOptions,
    RunOptions,
    TrainingConfig,
)

for _options in (DataOptions, ModelOptions, OptimizerOptions, RunOptions, DistributionOptions):
    entry_point.define_flags(_options)


def main() -> dict[str, Any]:
    """Checks the flags, then trains; returns the final metrics."""
    config = TrainingConfig(
        data=entry_point.options_from_flags(DataOptions),
        model=entry_point.options_from_flags(ModelOptions),
        optimizer=entry_point.options_from_flags(OptimizerOptions),
        run=entry_point.options_from_flags(RunOptions),
        distribution=entry_point.options_from_flags(DistributionOptions),
    )
    config.validate()
    from tf_dlrm.training import run  # only now: TensorFlow takes seconds to start

    return run.train(config)


if __name__ == "__main__":
    entry_point.run(main)
