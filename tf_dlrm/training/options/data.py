"""Where the examples of a run come from; see `config`."""

from __future__ import annotations

import dataclasses
from typing import Any

from tf_dlrm.errors import UserError, as_user_error
from tf_dlrm.options import INT32, Options, commas, option
from tfrecords import files
from tfrecords.random_schema import CRITEO_KAGGLE, table_sizes

# The flag that names the folder of each kind of data that has one.
_FOLDERS = {
    "folder": "data_dir",
    "table": "data_dir",
    "parquet": "data_dir",
    "synthetic": "synthetic_dir",
}
# Both read tables without a conversion; the second is an older name.
_TABLES = ("table", "parquet")
# What is made at once, a block of rows, is held in memory; so is the order of all blocks.
_MOST_RANDOM_COLUMNS = 10_000
_MOST_RANDOM_ROWS = 10**11
_MOST_IDS = 10**18
_PROFILE = "python -m tfrecords.synthetic profile --feature=all"


@dataclasses.dataclass(frozen=True)
class DataOptions(Options):
    """Where the examples come from and in which order."""

    data: str = option(
        "folder",
        "Source of examples: a data set folder (--data_dir); a table of files as they are "
        "(--data_schema; parquet is another name for it); or made on the fly: random examples, or "
        "synthetic ones with the locality of other data (--synthetic_dir).",
        ("folder", "table", "parquet", "random", "synthetic"),
    )
    data_dir: str = option(
        "",
        "Data set folder, as written by tfrecords.convert_criteo; with --data=table a folder of "
        "files for each split (DIR/train, DIR/evaluation), of the format of --data_schema: "
        ".parquet; .arrow, .arrows, .feather or .ipc; .csv or .tsv (or .txt, .data, .dat).",
    )
    data_schema: str = option(
        "", "With --data=table: what the columns are, as for --schema of tfrecords.convert."
    )
    data_vocabulary: str = option(
        "",
        "With --data=table: a data set folder whose vocabularies give ids to the values of columns "
        "that are neither ids nor hashed.",
    )
    shuffle: bool = option(True, "Whether training rows are shuffled anew in every epoch.")
    shuffle_window_rows: int = option(
        262144,
        "Rows that are shuffled among each other while reading; blocks always are.",
        least=1,
    )
    data_service: str = option(
        "",
        "Dispatcher of a tf.data service that reads the training rows in place of this process "
        "(grpc://HOST:PORT, see tfrecords.data_service); its worker needs the data set under the "
        "same path. Only for --data=folder on a file system, and --data=random.",
    )
    random_tables: tuple[str, ...] = option(
        (CRITEO_KAGGLE,),
        "Vocabulary sizes of the random tables, comma-separated, or criteo_kaggle.",
    )
    random_max_vocabulary: int = option(
        0, "Upper bound of every random table's vocabulary size; 0 for none.", least=0
    )
    random_dense_features: int = option(
        13, "Number of random dense features.", least=0, most=_MOST_RANDOM_COLUMNS
    )
    random_dense: str = option(
        "uniform",
        "Random dense values: uniform in [0, 1), or normal of mean 0 and deviation 1.",
        ("uniform", "normal"),
    )
    random_indices_per_lookup: int = option(
        1,
        "Ids of each random feature in each example (hotness).",
        least=1,
        most=_MOST_RANDOM_COLUMNS,
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
    random_train_rows: int = option(
        1_000_000, "Number of random training examples.", least=1, most=_MOST_RANDOM_ROWS
    )
    random_evaluation_rows: int = option(
        100_000, "Number of random evaluation examples.", least=1, most=_MOST_RANDOM_ROWS
    )
    random_seed: int = option(
        0, "Seed of the random examples and of their teacher.", least=-INT32, most=INT32
    )

    synthetic_dir: str = option(
        "", "Folder of distributions, as written by tfrecords.synthetic profile --feature=all."
    )
    synthetic_train_rows: int = option(
        0,
        "Number of synthetic training examples; 0: as many as the original data has.",
        least=0,
        most=_MOST_RANDOM_ROWS,
    )
    synthetic_evaluation_rows: int = option(
        0,
        "Number of synthetic evaluation examples; 0: as many as the original data has.",
        least=0,
        most=_MOST_RANDOM_ROWS,
    )
    synthetic_seed: int = option(0, "Seed of the synthetic examples.", least=-INT32, most=INT32)

    def validate(self) -> None:
        """Raises UserError when the options contradict each other or name no data."""
        super().validate()
        for name in sorted(set(_FOLDERS.values())):
            if getattr(self, name) and name != _FOLDERS.get(self.data):
                raise UserError(
                    f"--data={self.data} contradicts --{name}={getattr(self, name)}: leave one of "
                    "them out."
                )
        for name in ("data_schema", "data_vocabulary"):
            if getattr(self, name) and self.data not in _TABLES:
                raise UserError(
                    f"--{name}={getattr(self, name)} contradicts --data={self.data}: only tables "
                    "that are read as they are need it."
                )
        if self.data in _TABLES and not self.data_schema:
            raise UserError(
                f"--data_schema is missing: --data={self.data} needs to know what the columns are."
            )
        if self.data_service:
            self._check_data_service()
        if self.data == "folder":
            self._check_folder("dataset.json", "data set", "python -m tfrecords.convert_criteo")
        elif self.data in _TABLES:
            self._check_folder("train", "folder of table files", "any program")
            from tfrecords.conversion import description_file  # here: it needs packages for TOML

            with as_user_error(f"--data_schema={self.data_schema}: "):
                description_file.load(self.data_schema)
            if self.data_vocabulary and not files.isdir(self.data_vocabulary):
                raise UserError(f"--data_vocabulary={self.data_vocabulary} is not a folder.")
        elif self.data == "synthetic":
            self._check_folder("twin.json", "folder of distributions", _PROFILE)
        else:
            self._validate_random()

    def _check_data_service(self) -> None:
        # What runs in Python or in tensorflow-io cannot run in the service's worker.
        reason = ""
        if self.data not in ("folder", "random"):
            reason = f"--data={self.data} is read in this process only"
        elif files.is_remote(self.data_dir):
            reason = f"--data_dir={self.data_dir} in an object store is read in this process only"
        if reason:
            raise UserError(f"--data_service={self.data_service} cannot be used: {reason}.")
        from tfrecords.data_service import check_address  # here: it needs TensorFlow

        with as_user_error(f"--data_service={self.data_service}: "):
            check_address(self.data_service)

    def _check_folder(self, file: str, kind: str, maker: str) -> None:
        """Checks the folder that `data` needs."""
        name = _FOLDERS[self.data]
        folder = getattr(self, name)
        if not folder:
            raise UserError(
                f"--{name} is missing: name a {kind} (made by {maker}), or use --data=random."
            )
        if not files.isdir(folder):
            raise UserError(f"--{name}={folder} is not a folder.")
        if not files.exists(files.join(folder, file)):
            raise UserError(f"--{name}={folder} is no {kind}: it has no {file}.")

    def _validate_random(self) -> None:
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
        with as_user_error("--random_"):
            sizes = table_sizes(self.random_tables, self.random_max_vocabulary)
        if max(sizes) > _MOST_IDS:
            raise UserError(
                f"--random_tables={commas(self.random_tables)} must have sizes of {_MOST_IDS} or "
                "less: ids are numbers of 64 bits."
            )
        hotness = self.random_indices_per_lookup
        if not self.random_repeats and self.random_indices_per_lookup_fixed:
            if hotness > min(sizes):
                raise UserError(
                    f"--norandom_repeats needs tables of at least --random_indices_per_lookup="
                    f"{hotness} rows, but one has {min(sizes)}; let ids repeat, take fewer, or "
                    "let their number be random (--norandom_indices_per_lookup_fixed)."
                )

    def with_absolute_paths(self) -> DataOptions:
        """The same options, for use from any folder."""
        paths: dict[str, Any] = {}
        for name in {*_FOLDERS.values(), "data_vocabulary"}:
            if getattr(self, name):
                paths[name] = files.absolute(getattr(self, name))
        # A description can also be a built-in one, which has a name and no path.
        if self.data_schema and files.isfile(self.data_schema):
            paths["data_schema"] = files.absolute(self.data_schema)
        return dataclasses.replace(self, **paths)
