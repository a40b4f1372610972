"""Folds an increment into the SavedModel that it was made from.

python -m tf_dlrm.fold --base=DIR --increment=DIR --export_dir=DIR
"""

from __future__ import annotations

from typing import Any

from absl import flags

from tf_dlrm import entry_point
from tf_dlrm.errors import UserError
from tf_dlrm.training.options.config import check_export_dir

_BASE = flags.DEFINE_string("base", "", "The SavedModel that the increment was made from.")
_INCREMENT = flags.DEFINE_string(
    "increment", "", "What tf_dlrm.export --incremental_from=BASE wrote."
)
_EXPORT_DIR = flags.DEFINE_string("export_dir", "", "Folder of the SavedModel to write.")


def main() -> dict[str, Any]:
    """Checks the flags, then folds; returns where to, the step and the number of changed rows."""
    for flag in (_BASE, _INCREMENT, _EXPORT_DIR):
        if not flag.value:
            raise UserError(f"--{flag.name} is missing.")
    for flag in (_BASE, _INCREMENT):
        check_export_dir(_EXPORT_DIR.value, flag.value, other=flag.name)
    from tf_dlrm.serving.increment import fold

    return fold(_BASE.value, _INCREMENT.value, _EXPORT_DIR.value)


if __name__ == "__main__":
    entry_point.run(main)
