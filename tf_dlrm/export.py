"""Exports a checkpoint: python -m tf_dlrm.export --model_dir=DIR --export_dir=DIR."""

from __future__ import annotations

from typing import Any

from absl import flags

from tf_dlrm import entry_point
from tf_dlrm.errors import UserError
from tf_dlrm.training.config import check_export_dir, check_model_dir

_MODEL_DIR = flags.DEFINE_string("model_dir", "", "Folder of a training run.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", "", "Path prefix of a checkpoint; empty: newest.")
_EXPORT_DIR = flags.DEFINE_string("export_dir", "", "Folder of the SavedModel to write.")


def main() -> dict[str, Any]:
    """Checks the flags, then exports; returns where to and from which step."""
    for flag in (_MODEL_DIR, _EXPORT_DIR):
        if not flag.value:
            raise UserError(f"--{flag.name} is missing.")
    check_model_dir(_MODEL_DIR.value, _CHECKPOINT.value)
    check_export_dir(_EXPORT_DIR.value, _MODEL_DIR.value)
    from tf_dlrm.serving.export import export_model
    from tf_dlrm.training.run import restore_model
    from tfrecords.schema import Schema

    model, run, position = restore_model(_MODEL_DIR.value, _CHECKPOINT.value)
    run["step"] = position.step
    export_model(model, Schema.from_json(run["schema"]), _EXPORT_DIR.value, run)
    return {"export_dir": _EXPORT_DIR.value, "step": position.step}


if __name__ == "__main__":
    entry_point.run(main)
