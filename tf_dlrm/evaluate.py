"""Evaluates a checkpoint or an exported model.

python -m tf_dlrm.evaluate --model_dir=DIR      the newest checkpoint of a run
python -m tf_dlrm.evaluate --saved_model=DIR    a SavedModel of tf_dlrm.train or tf_dlrm.export
python -m tf_dlrm.evaluate --saved_model=DIR --against=CHECKPOINT    whether both predict the same

The data is that of the training run, unless --data_dir names another data set folder.
"""

from __future__ import annotations

import math
from typing import Any

from absl import flags

from tf_dlrm import entry_point
from tf_dlrm.errors import UserError
from tf_dlrm.options import INT32
from tf_dlrm.training.options.config import check_model_dir
from tfrecords import files

_MODEL_DIR = flags.DEFINE_string("model_dir", "", "Folder of a training run.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", "", "Path prefix of a checkpoint; empty: newest.")
_SAVED_MODEL = flags.DEFINE_string("saved_model", "", "Folder of an exported SavedModel.")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "Data set folder; empty: the run's own data.")
_SPLIT = flags.DEFINE_enum(
    "split", "evaluation", ["train", "evaluation", "test"], "Rows to evaluate."
)
_BATCH_SIZE = flags.DEFINE_integer("eval_batch_size", 16384, "Examples in a batch.", 1, INT32)
_STEPS = flags.DEFINE_integer("eval_steps", 0, "Batches; 0 for all rows.", 0, INT32)
_GROUP_SIZE = flags.DEFINE_integer(
    "ranking_group_size",
    0,
    "Also rank each group of so many consecutive rows, of which one is positive: hit ratio and "
    "NDCG at 10. Data sets of tfrecords.leave_one_out have groups of 100. 0: no groups.",
    lower_bound=0,
    upper_bound=INT32,
)
_AGAINST = flags.DEFINE_string(
    "against",
    "",
    "With --saved_model: a checkpoint's path prefix, or the folder of a run for its newest one. "
    "Compares the two predictions of every row, and fails if any differ.",
)
_MAX_DIFFERENCE = flags.DEFINE_float(
    "max_difference",
    1e-5,
    "With --against: the largest difference of two probabilities that passes.",
    lower_bound=0.0,
)
_PRINT = flags.DEFINE_integer(
    "print_predictions",
    0,
    "Also give the predicted probability and the label of so many first rows.",
    lower_bound=0,
    upper_bound=INT32,
)


def main() -> dict[str, Any]:
    """Checks the flags, then evaluates; returns the metrics."""
    if bool(_MODEL_DIR.value) == bool(_SAVED_MODEL.value):
        raise UserError("Give one of --model_dir (a checkpoint) and --saved_model (an export).")
    if _CHECKPOINT.value and not _MODEL_DIR.value:
        raise UserError("--checkpoint needs --model_dir.")
    if not math.isfinite(_MAX_DIFFERENCE.value):
        raise UserError(f"--max_difference={_MAX_DIFFERENCE.value} must be a finite number.")
    if _AGAINST.value:
        _check_against()
    if _MODEL_DIR.value:
        check_model_dir(_MODEL_DIR.value, _CHECKPOINT.value)
    elif not files.isfile(files.join(_SAVED_MODEL.value, "saved_model.pb")):
        raise UserError(f"--saved_model={_SAVED_MODEL.value} is no SavedModel: no saved_model.pb.")
    from tf_dlrm.training.evaluation import assessment

    return assessment.assess(
        model_dir=_MODEL_DIR.value,
        checkpoint=_CHECKPOINT.value,
        saved_model=_SAVED_MODEL.value,
        data_dir=_DATA_DIR.value,
        split=_SPLIT.value,
        batch_size=_BATCH_SIZE.value,
        steps=_STEPS.value,
        predictions=_PRINT.value,
        ranking_group_size=_GROUP_SIZE.value,
        against=_AGAINST.value,
        max_difference=_MAX_DIFFERENCE.value,
    )


def _check_against() -> None:
    if not _SAVED_MODEL.value:
        raise UserError("--against needs --saved_model, the export to compare.")
    for flag in (_PRINT, _GROUP_SIZE):
        if flag.value:
            raise UserError(f"--{flag.name} has no use with --against, which only compares.")
    if not files.isfile(_AGAINST.value + ".index"):
        if not files.isfile(files.join(_AGAINST.value, "run.json")):
            raise UserError(
                f"--against={_AGAINST.value} is neither a checkpoint (there is no "
                f"{_AGAINST.value}.index) nor the folder of a run (it has no run.json)."
            )


if __name__ == "__main__":
    entry_point.run(main)
