"""Evaluates a checkpoint or an exported model.

python -m tf_dlrm.evaluate --model_dir=DIR      the newest checkpoint of a run
python -m tf_dlrm.evaluate --saved_model=DIR    a SavedModel of tf_dlrm.train or tf_dlrm.export
python -m tf_dlrm.evaluate --saved_model=DIR --against=CHECKPOINT    whether both predict the same

The data is that of the training run, unless --data_dir names another data set folder.
"""

from __future__ import annotations

from typing import Any

from tf_dlrm import entry_point
from tf_dlrm.options import define_flags, options_from_flags
from tf_dlrm.training.options.evaluation import EvaluationOptions

define_flags(EvaluationOptions)


def main() -> dict[str, Any]:
    """Checks the flags, then evaluates; returns the metrics."""
    options = options_from_flags(EvaluationOptions)
    options.validate()
    from tf_dlrm.training.evaluation import (
        assessment,
    )  # only now: TensorFlow takes seconds to start

    return assessment.assess(options)


if __name__ == "__main__":
    entry_point.run(main)
