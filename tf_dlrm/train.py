"""Trains a model: python -m tf_dlrm.train --flagfile=flags/X.flags [--flag=value ...]."""

from __future__ import annotations

from typing import Any

from tf_dlrm import entry_point
from tf_dlrm.options import define_flags
from tf_dlrm.training.options.config import TRAINING_OPTIONS, TrainingConfig

define_flags(*TRAINING_OPTIONS)


def main() -> dict[str, Any]:
    """Checks the flags, then trains; returns the final metrics."""
    config = TrainingConfig.from_flags()
    config.validate()
    from tf_dlrm.training import run  # only now: TensorFlow takes seconds to start

    return run.train(config)


if __name__ == "__main__":
    entry_point.run(main)
