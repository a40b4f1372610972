"""The flags of a training run, for the entry points that have them."""

from __future__ import annotations

import dataclasses
from typing import Any

from absl import flags

from tf_dlrm import entry_point
from tf_dlrm.training.options.config import TrainingConfig

_PARTS: dict[str, Any] = {f.name: type(f.default) for f in dataclasses.fields(TrainingConfig)}

# So that --help lists them under the program that calls `define`, not under this module.
flags.disclaim_key_flags()


def define() -> None:
    """Defines a flag for each option of a run."""
    for part in _PARTS.values():
        entry_point.define_flags(part)


def config() -> TrainingConfig:
    """Returns the options that the flags say, not yet checked against each other.

    Raises:
        UserError: If a list of sizes holds something that is not an integer.
    """
    return TrainingConfig(
        **{name: entry_point.options_from_flags(part) for name, part in _PARTS.items()}
    )
