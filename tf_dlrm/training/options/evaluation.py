"""Options of an evaluation; each field is a flag of `tf_dlrm.evaluate`."""

from __future__ import annotations

import dataclasses

from tf_dlrm.errors import UserError
from tf_dlrm.options import INT32, Options, option
from tf_dlrm.training.options.config import check_model_dir
from tfrecords import files


@dataclasses.dataclass(frozen=True)
class EvaluationOptions(Options):
    """Which model to evaluate, on which rows."""

    model_dir: str = option("", "Folder of a training run.")
    checkpoint: str = option("", "Path prefix of a checkpoint; empty: newest.")
    saved_model: str = option("", "Folder of an exported SavedModel.")
    data_dir: str = option("", "Data set folder; empty: the run's own data.")
    split: str = option("evaluation", "Rows to evaluate.", ("train", "evaluation", "test"))
    eval_batch_size: int = option(16384, "Examples in a batch.", least=1, most=INT32)
    eval_steps: int = option(0, "Batches; 0 for all rows.", least=0, most=INT32)
    ranking_group_size: int = option(
        0,
        "Also rank each group of so many consecutive rows, of which one is positive: hit ratio and "
        "NDCG at 10. Data sets of tfrecords.leave_one_out have groups of 100. 0: no groups.",
        least=0,
        most=INT32,
    )
    against: str = option(
        "",
        "With --saved_model: a checkpoint's path prefix, or the folder of a run for its newest "
        "one. Compares the two predictions of every row, and fails if any differ.",
    )
    max_difference: float = option(
        1e-5, "With --against: the largest difference of two probabilities that passes.", least=0.0
    )
    print_predictions: int = option(
        0,
        "Also give the predicted probability and the label of so many first rows.",
        least=0,
        most=INT32,
    )

    def validate(self) -> None:
        """Raises UserError on options that contradict each other, and where there is no model."""
        super().validate()
        if bool(self.model_dir) == bool(self.saved_model):
            raise UserError("Give one of --model_dir (a checkpoint) and --saved_model (an export).")
        if self.checkpoint and not self.model_dir:
            raise UserError("--checkpoint needs --model_dir.")
        if self.against:
            self._check_against()
        if self.model_dir:
            check_model_dir(self.model_dir, self.checkpoint)
        elif not files.isfile(files.join(self.saved_model, "saved_model.pb")):
            raise UserError(
                f"--saved_model={self.saved_model} is no SavedModel: no saved_model.pb."
            )

    def _check_against(self) -> None:
        if not self.saved_model:
            raise UserError("--against needs --saved_model, the export to compare.")
        for name in ("print_predictions", "ranking_group_size"):
            if getattr(self, name):
                raise UserError(f"--{name} has no use with --against, which only compares.")
        run = files.join(self.against, "run.json")
        if not files.isfile(self.against + ".index") and not files.isfile(run):
            raise UserError(
                f"--against={self.against} is neither a checkpoint (there is no "
                f"{self.against}.index) nor the folder of a run (it has no run.json)."
            )
