"""Where the examples of a run come from; see `config`."""

from __future__ import annotations

import dataclasses

from tf_dlrm.errors import UserError
from tf_dlrm.training.option import check_at_least, check_choices, option
from tfrecords import files
from tfrecords.errors import DataError
from tfrecords.random_schema import CRITEO_KAGGLE, table_sizes


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """Where the examples come from and in which order."""

    data: str = option(
        "folder",
        "Source of examples: a data set folder (--data_dir), or random examples made on the fly.",
        ("folder", "random"),
    )
    data_dir: str = option("", "Data set folder, as written by tfrecords.convert_criteo.")
    shuffle: bool = option(True, "Whether training rows are shuffled anew in every epoch.")
    shuffle_window_rows: int = option(
        262144, "Rows that are shuffled among each other while reading; blocks always are."
    )
    random_tables: tuple[str, ...] = option(
        (CRITEO_KAGGLE,),
        "Vocabulary sizes of the random tables, comma-separated, or criteo_kaggle.",
    )
    random_max_vocabulary: int = option(
        0, "Upper bound of every random table's vocabulary size; 0 for none."
    )
    random_dense_features: int = option(13, "Number of random dense features.")
    random_dense: str = option(
        "uniform",
        "Random dense values: uniform in [0, 1), or normal of mean 0 and deviation 1.",
        ("uniform", "normal"),
    )
    random_indices_per_lookup: int = option(
        1, "Ids of each random feature in each example (hotness)."
    )
    random_indices_per_lookup_fixed: bool = option(
        True,
        "Whether every lookup has --random_indices_per_lookup ids, or a random number up to it.",
    )
    random_ids: str = option(
        "power_law",
        "Distribution of random ids: a power law (--random_alpha), uniform, or normal around the "
        "middle of the table.",
        ("power_law", "uniform", "normal"),
    )
    random_alpha: float = option(1.05, "Exponent of the power law of random ids; 0 for uniform.")
    random_repeats: bool = option(True, "Whether a random id may come twice in a lookup.")
    random_label: str = option(
        "teacher",
        "Labels of random examples: from a hidden teacher model, or with no regard to the features "
        "0 or 1 (random), a number in [0, 1) (continuous), or that number rounded.",
        ("teacher", "random", "rounded", "continuous"),
    )
    random_train_rows: int = option(1_000_000, "Number of random training examples.")
    random_evaluation_rows: int = option(100_000, "Number of random evaluation examples.")
    random_seed: int = option(0, "Seed of the random examples and of their teacher.")

    def validate(self) -> None:
        """Raises UserError when the options contradict each other or name no data."""
        check_choices(self)
        if self.data == "folder":
            if not self.data_dir:
                raise UserError(
                    "--data_dir is missing: name a data set folder (made by python -m "
                    "tfrecords.convert_criteo), or use --data=random."
                )
            if not files.isdir(self.data_dir):
                raise UserError(f"--data_dir={self.data_dir} is not a folder.")
            if not files.isfile(files.join(self.data_dir, "dataset.json")):
                raise UserError(
                    f"--data_dir={self.data_dir} is no data set: it has no dataset.json."
                )
        elif self.data_dir:
            raise UserError(
                f"--data=random contradicts --data_dir={self.data_dir}: leave one of them out."
            )
        check_at_least(self, 1, "shuffle_window_rows")
        if self.data == "random":
            self._validate_random()

    def _validate_random(self) -> None:
        check_at_least(self, 1, "random_indices_per_lookup")
        check_at_least(self, 1, "random_train_rows", "random_evaluation_rows")
        check_at_least(self, 0, "random_dense_features", "random_max_vocabulary")
        if not 0 <= self.random_alpha <= 20:
            raise UserError(
                f"--random_alpha={self.random_alpha} must lie between 0 (uniform) and 20."
            )
        default = DataOptions.random_alpha
        if self.random_ids != "power_law" and self.random_alpha != default:
            raise UserError(
                f"--random_alpha={self.random_alpha} has no effect with "
                f"--random_ids={self.random_ids}."
            )
        try:
            sizes = table_sizes(self.random_tables, self.random_max_vocabulary)
        except DataError as error:
            raise UserError(f"--random_{error}") from error
        hotness = self.random_indices_per_lookup
        if not self.random_repeats and self.random_indices_per_lookup_fixed:
            if hotness > min(sizes):
                raise UserError(
                    f"--norandom_repeats needs tables of at least --random_indices_per_lookup="
                    f"{hotness} rows, but one has {min(sizes)}; let ids repeat, take fewer, or "
                    "let their number be random (--norandom_indices_per_lookup_fixed)."
                )
