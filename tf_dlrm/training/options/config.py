"""What a run is, as frozen dataclasses; every field is a flag of `tf_dlrm.train`.

Nothing here imports TensorFlow, so that a mistaken flag is reported before TensorFlow starts; only
paths on object stores need it.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

import tf_dlrm
from tf_dlrm.errors import UserError
from tf_dlrm.options import (
    INT32,
    Options,
    check_values,
    commas,
    option,
    options_from_flags,
)
from tf_dlrm.training.options.data import DataOptions
from tf_dlrm.training.options.distribution import DistributionOptions
from tf_dlrm.training.options.model import ModelOptions
from tfrecords import files

# One file each; they import TensorFlow, so their names are read from the folder.
_FOLDER = pathlib.Path(tf_dlrm.__file__).parent / "embeddings" / "optimizers"
EMBEDDING_OPTIMIZERS = tuple(
    sorted({file.stem for file in _FOLDER.glob("*.py")} - {"__init__", "optimizer", "frozen"})
)
DENSE_OPTIMIZERS = ("sgd", "adagrad", "adam")


@dataclasses.dataclass(frozen=True)
class OptimizerOptions(Options):
    """The two optimizers and the schedule of their learning rates."""

    embedding_optimizer: str = option("sgd", "Optimizer of the tables.", EMBEDDING_OPTIMIZERS)
    embedding_learning_rate: float = option(0.1, "Learning rate of the tables.", above=0)
    embedding_initial_accumulator: float = option(
        0.0,
        "First value of the tables' adagrad and rowwise_adagrad; on a TPU it must be above 0.",
        least=0,
    )
    dense_optimizer: str = option("sgd", "Optimizer of the MLPs.", DENSE_OPTIMIZERS)
    dense_learning_rate: float = option(0.1, "Learning rate of the MLPs.", above=0)
    negative_weight: float = option(1.0, "Weight of the loss of rows with the label 0.", above=0)
    positive_weight: float = option(1.0, "Weight of the loss of rows with the label 1.", above=0)
    warmup_steps: int = option(
        0, "Steps over which learning rates rise linearly to their value.", least=0
    )
    decay_start_step: int = option(0, "Step at which learning rates begin to decay.", least=0)
    decay_steps: int = option(0, "Steps over which learning rates decay; 0 for no decay.", least=0)
    decay_power: float = option(2.0, "Power of the polynomial decay.", above=0)
    final_learning_rate_fraction: float = option(
        0.0, "Learning rates end at this fraction of their value.", least=0, most=1
    )

    def validate(self) -> None:
        """Raises UserError on impossible rates and steps."""
        super().validate()
        accumulator = self.embedding_initial_accumulator
        if accumulator and self.embedding_optimizer not in ("adagrad", "rowwise_adagrad"):
            raise UserError(
                f"--embedding_initial_accumulator={accumulator} has no effect with "
                f"--embedding_optimizer={self.embedding_optimizer}."
            )
        if self.decay_steps and self.decay_start_step < self.warmup_steps:
            raise UserError(
                f"--decay_start_step={self.decay_start_step} comes before the end of "
                f"--warmup_steps={self.warmup_steps}."
            )
        if self.decay_start_step and not self.decay_steps:
            raise UserError("--decay_start_step has no effect without --decay_steps.")
        if self.embedding_optimizer == "ftrl":
            self._check_ftrl()

    def _check_ftrl(self) -> None:
        # Before TensorFlow starts; `embeddings.FTRL` refuses the same.
        decays = self.decay_steps > 0 and self.final_learning_rate_fraction != 1
        if decays or self.warmup_steps > 1:
            flag = "decay_steps" if decays else "warmup_steps"
            raise UserError(
                "--embedding_optimizer=ftrl cannot follow a schedule: a new rate would rescale "
                f"every row. Leave out --{flag}={getattr(self, flag)}, or take "
                "--embedding_optimizer=adagrad."
            )
        if self.embedding_learning_rate < 2.0**-126:
            raise UserError(
                f"--embedding_learning_rate={self.embedding_learning_rate} is 0 as a float32 or "
                "nearly so, and --embedding_optimizer=ftrl divides by it."
            )


@dataclasses.dataclass(frozen=True)
class RunOptions(Options):
    """How long to train, what to write and when."""

    model_dir: str = option(
        "", "Folder of checkpoints, metrics.jsonl and TensorBoard logs; empty for none."
    )
    init_from: str = option(
        "",
        "Folder of a run whose newest checkpoint a new --model_dir begins with. The data may be "
        "others, with larger vocabularies that begin with that run's (tfrecords.convert "
        "--vocabulary_of --extend_vocabulary).",
    )
    export_dir: str = option("", "Folder of the exported SavedModel; empty for none.")
    batch_size: int = option(128, "Training examples in a batch.", least=1, most=INT32)
    epochs: int = option(1, "Passes over the training rows.", least=1)
    train_steps: int = option(
        0, "Stop after so many steps, if that comes first; 0 for no limit.", least=0
    )
    eval_batch_size: int = option(16384, "Evaluation examples in a batch.", least=1, most=INT32)
    eval_steps: int = option(
        0, "Batches of an evaluation; 0 for the whole evaluation split.", least=0
    )
    eval_every_steps: int = option(
        0, "Evaluate every so many steps; 0 for at the end only.", least=0
    )
    checkpoint_every_steps: int = option(
        0, "Checkpoint every so many steps; 0: at the end only.", least=0
    )
    keep_checkpoints: int = option(2, "Newest checkpoints that are kept.", least=1)
    target_auc: float = option(
        0.0, "Stop when an evaluation reaches this AUC; 0 for never.", least=0, most=1
    )
    seed: int = option(
        0, "Seed of the initial weights, of dropout and of the order of rows.", least=0, most=INT32
    )
    deterministic: bool = option(False, "Whether a rerun repeats every bit, at some speed.")
    kernels: str = option(
        "auto",
        "What looks up and updates tables and computes the dot interaction in training: native "
        "kernels, compiled on first use, TensorFlow's own operations, or whichever there is; auto "
        "follows the environment variable TF_DLRM_KERNELS.",
        ("auto", "native", "tensorflow"),
    )
    tensorboard: bool = option(True, "Whether to write TensorBoard logs into --model_dir.")
    profile_steps: tuple[int, ...] = option(
        (), "FIRST,LAST: profile these steps for TensorBoard, into --model_dir."
    )

    def validate(self) -> None:
        """Raises UserError on impossible numbers and on options without their folder."""
        super().validate()
        if self.target_auc and not self.eval_every_steps:
            raise UserError("--target_auc needs --eval_every_steps, else it is never looked at.")
        if self.profile_steps and (
            len(self.profile_steps) != 2 or not 0 < self.profile_steps[0] <= self.profile_steps[1]
        ):
            raise UserError(
                f"--profile_steps={commas(self.profile_steps)} must be two steps, FIRST,LAST, "
                "with 1 <= FIRST <= LAST."
            )
        if not self.model_dir:
            for name in ("checkpoint_every_steps", "profile_steps", "init_from"):
                if getattr(self, name):
                    raise UserError(f"--{name} needs --model_dir.")
        if self.model_dir and files.exists(self.model_dir) and not files.isdir(self.model_dir):
            raise UserError(f"--model_dir={self.model_dir} exists and is not a folder.")
        if self.export_dir:
            check_export_dir(self.export_dir, self.model_dir)


def check_model_dir(model_dir: str, checkpoint: str = "") -> None:
    """Raises UserError unless `model_dir` holds a run and `checkpoint`, if given, exists."""
    if not files.isfile(files.join(model_dir, "run.json")):
        raise UserError(f"--model_dir={model_dir} holds no training run: it has no run.json.")
    if checkpoint and not files.isfile(checkpoint + ".index"):
        raise UserError(
            f"--checkpoint={checkpoint} is no checkpoint: {checkpoint}.index does not exist."
        )


def check_export_dir(
    export_dir: str, input_dir: str, other: str = "model_dir", marker: str = "saved_model.pb"
) -> None:
    """Raises UserError if an export to `export_dir` would replace something else than an export.

    Args:
        export_dir: The folder to write.
        input_dir: A folder that is read, or empty.
        other: The flag that names `input_dir`.
        marker: The file by which what is written is known.
    """
    export, read = _real(export_dir), _real(input_dir)
    if input_dir and (export.startswith(read) or read.startswith(export)):
        raise UserError(
            f"--export_dir={export_dir} and --{other}={input_dir} must be two folders, neither "
            "inside the other: an export replaces its folder."
        )
    if not files.exists(export_dir):
        return
    if not files.isdir(export_dir):
        raise UserError(f"--export_dir={export_dir} exists and is not a folder.")
    content = files.listdir(export_dir)
    if content and marker not in content:
        raise UserError(
            f"--export_dir={export_dir} is not empty and holds no {marker}, so it is not replaced."
        )


def _real(folder: str) -> str:
    path = files.absolute(folder)
    return (path if files.is_remote(path) else os.path.realpath(path)).rstrip("/") + "/"


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """All options of one training run."""

    data: DataOptions = DataOptions()
    model: ModelOptions = ModelOptions()
    optimizer: OptimizerOptions = OptimizerOptions()
    run: RunOptions = RunOptions()
    distribution: DistributionOptions = DistributionOptions()

    def validate(self) -> None:
        """Raises UserError with one sentence on the first option that can't be."""
        if self.distribution.distribution == "multi_worker_mirrored":
            if self.run.export_dir and not self.run.model_dir:
                raise UserError(
                    "--export_dir with --distribution=multi_worker_mirrored needs --model_dir: no "
                    "process has all tables, so the export is made from a checkpoint."
                )
            if self.data.data_service:
                raise UserError(
                    "--data_service has no use with --distribution=multi_worker_mirrored: every "
                    "worker reads for itself."
                )
        for part in self.parts:
            part.validate()
        if self.data.data == "random":
            self.model.check_dense(self.data.random_dense_features)

    def validate_model(self) -> None:
        """Raises UserError if no model was trained with these options; looks at no file."""
        for part in (self.data, self.run, self.distribution):
            check_values(part)
        self.model.validate()
        self.optimizer.validate()

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values; `from_json` is the inverse."""
        return dataclasses.asdict(self)

    @property
    def parts(self) -> tuple[Options, ...]:
        """The options of each field."""
        return tuple(getattr(self, field.name) for field in dataclasses.fields(self))

    def to_flags(self) -> list[str]:
        """Returns the command-line flags of all options that are not as they are by default."""
        return [f"--{name}={text}" for part in self.parts for name, text in part.given().items()]

    @classmethod
    def from_flags(cls) -> TrainingConfig:
        """Returns the options that the flags say, not yet checked against each other.

        Raises:
            UserError: If a list of sizes holds something that is not an integer.
        """
        parts: Any = map(options_from_flags, TRAINING_OPTIONS)
        return cls(*parts)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> TrainingConfig:
        """Rebuilds the options that `to_json` returned, lists becoming tuples again.

        Raises:
            UserError: If a part is missing, or has an option that is not known.
        """
        parts: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            options: Any = type(field.default)
            part = value.get(field.name) if isinstance(value, dict) else None
            if not isinstance(part, dict):
                raise UserError(f"The options have no part {field.name!r} with values by name.")
            unknown = sorted(set(part) - {known.name for known in dataclasses.fields(options)})
            if unknown:
                raise UserError(f"The options of {field.name} have an unknown {unknown[0]!r}.")
            parts[field.name] = options(
                **{name: tuple(v) if isinstance(v, list) else v for name, v in part.items()}
            )
        return cls(**parts)


# The options of each part.
TRAINING_OPTIONS: tuple[type[Options], ...] = tuple(map(type, TrainingConfig().parts))
