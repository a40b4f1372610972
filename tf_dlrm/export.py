"""Exports a checkpoint: python -m tf_dlrm.export --model_dir=DIR --export_dir=DIR."""

from __future__ import annotations

from typing import Any

from absl import flags

from tf_dlrm import entry_point
from tf_dlrm.errors import UserError
from tf_dlrm.options import define_flags, options_from_flags
from tf_dlrm.serving.options import ExportOptions
from tf_dlrm.training.options.config import check_export_dir, check_model_dir

_MODEL_DIR = flags.DEFINE_string("model_dir", "", "Folder of a training run.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", "", "Path prefix of a checkpoint; empty: newest.")
_EXPORT_DIR = flags.DEFINE_string("export_dir", "", "Folder of the SavedModel to write.")
_INCREMENTAL_FROM = flags.DEFINE_string(
    "incremental_from",
    "",
    "An earlier export: writes only what changed since, for tf_dlrm.fold to make a whole model of.",
)
define_flags(ExportOptions)


def main() -> dict[str, Any]:
    """Checks the flags, then exports; returns where to and from which step."""
    for flag in (_MODEL_DIR, _EXPORT_DIR):
        if not flag.value:
            raise UserError(f"--{flag.name} is missing.")
    check_model_dir(_MODEL_DIR.value, _CHECKPOINT.value)
    marker = "saved_model.pb"
    if _INCREMENTAL_FROM.value:
        marker = "increment.json"
        check_export_dir(_EXPORT_DIR.value, _INCREMENTAL_FROM.value, "incremental_from", marker)
    check_export_dir(_EXPORT_DIR.value, _MODEL_DIR.value, marker=marker)
    options = options_from_flags(ExportOptions)
    options.validate()
    from tf_dlrm.serving.exporting import export_checkpoint
    from tf_dlrm.training.restore import CheckpointedRun

    trained = CheckpointedRun(_MODEL_DIR.value, _CHECKPOINT.value)
    return export_checkpoint(trained, _EXPORT_DIR.value, options, _INCREMENTAL_FROM.value)


if __name__ == "__main__":
    entry_point.run(main)
