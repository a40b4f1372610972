"""Evaluates a checkpoint or an exported model.

python -m tf_dlrm.evaluate --model_dir=DIR      the newest checkpoint of a run
python -m tf_dlrm.evaluate --saved_model=DIR    a SavedModel of tf_dlrm.train or tf_dlrm.export

The data is that of the training run, unless --data_dir names another data set folder.
"""

from __future__ import annotations

from typing import Any

from absl import flags

from tf_dlrm import entry_point
from tf_dlrm.errors import UserError
from tf_dlrm.training.config import check_model_dir
from tfrecords import files

_MODEL_DIR = flags.DEFINE_string("model_dir", "", "Folder of a training run.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", "", "Path prefix of a checkpoint; empty: newest.")
_SAVED_MODEL = flags.DEFINE_string("saved_model", "", "Folder of an exported SavedModel.")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "Data set folder; empty: the run's own data.")
_SPLIT = flags.DEFINE_enum(
    "split", "evaluation", ["train", "evaluation", "test"], "Rows to evaluate."
)
_BATCH_SIZE = flags.DEFINE_integer("eval_batch_size", 16384, "Examples in a batch.", lower_bound=1)
_STEPS = flags.DEFINE_integer("eval_steps", 0, "Batches; 0 for all rows.", lower_bound=0)
_GROUP_SIZE = flags.DEFINE_integer(
    "ranking_group_size",
    0,
    "Also rank each group of so many consecutive rows, of which one is positive: hit ratio and "
    "NDCG at 10. Data sets of tfrecords.leave_one_out have groups of 100. 0: no groups.",
    lower_bound=0,
)
_PRINT = flags.DEFINE_integer(
    "print_predictions",
    0,
    "Also give the predicted probability and the label of so many first rows.",
    lower_bound=0,
)


def main() -> dict[str, Any]:
    """Checks the flags, then evaluates; returns the metrics."""
    if bool(_MODEL_DIR.value) == bool(_SAVED_MODEL.value):
        raise UserError("Give one of --model_dir (a checkpoint) and --saved_model (an export).")
    if _CHECKPOINT.value and not _MODEL_DIR.value:
        raise UserError("--checkpoint needs --model_dir.")
    if _MODEL_DIR.value:
        check_model_dir(_MODEL_DIR.value, _CHECKPOINT.value)
    elif not files.isfile(files.join(_SAVED_MODEL.value, "saved_model.pb")):
        raise UserError(f"--saved_model={_SAVED_MODEL.value} is no SavedModel: no saved_model.pb.")
    from tf_dlrm.training import assessment

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
    )


if __name__ == "__main__":
    entry_point.run(main)
