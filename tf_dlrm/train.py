"""Trains a model: python -m tf_dlrm.train --flagfile=flags/X.flags [--flag=value ...]."""

from __future__ import annotations

from typing import Any

from tf_dlrm import entry_point, training_flags

training_flags.define()


def main() -> dict[str, Any]:
    """Checks the flags, then trains; returns the final metrics."""
    config = training_flags.config()
    config.validate()
    from tf_dlrm.training import run  # only now: TensorFlow takes seconds to start

    return run.train(config)


if __name__ == "__main__":
    entry_point.run(main)
