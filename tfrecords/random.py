"""Generated click logs: the random source of the paper, with labels that can be learnt.

`python -m tfrecords.random --output_dir=DIR` writes such a data set to a folder; the class makes
the same rows on the fly, without files.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
from absl import app, flags

from tfrecords import entry_point
from tfrecords.epoch import SHUFFLE_WINDOW_ROWS, Shard, epoch_order
from tfrecords.errors import DataError, first_line
from tfrecords.hashing import hash_number
from tfrecords.machine import check_disk
from tfrecords.order import Features, ordered_batches
from tfrecords.progress import Progress
from tfrecords.random_ids import IDS, IdDistribution, draw_bags, draw_ids
from tfrecords.random_schema import CRITEO_KAGGLE, check_lookups, random_schema, table_sizes
from tfrecords.schema import CategoricalColumn, Schema
from tfrecords.teacher import Teacher
from tfrecords.writer import ROWS_PER_RECORD, DatasetWriter

_BLOCK_ROWS = 8192
_CALIBRATION_ROWS = 32_768
LABELS = ("teacher", "random", "rounded", "continuous")
DENSE = ("uniform", "normal")


class RandomSource:
    """Rows that are generated while they are read; the interface is that of `RecordSource`.

    Block `i` of a split is a function of (seed, split, i) alone, so there is nothing to store, any
    epoch can begin anywhere, and two splits never share a row's draw.

    Args:
        schema: The columns. A ragged column (hotness None) gets a random number of ids per row.
        rows: Rows per split, for example `{"train": 1_000_000, "evaluation": 100_000}`.
        seed: Another seed gives other rows and another teacher.
        alpha: Exponent of the power law; 0 makes all ids equally likely.
        label: "teacher": drawn with the probability that a hidden function of the features gives
            (see `teacher`), about a quarter of them 1; a model that learns nothing has an AUC of
            0.5, a perfect one about 0.85. The others have nothing to do with the features:
            "random": 0 or 1 with equal chance. "continuous": uniform in [0, 1), as the paper's
            code has them by default. "rounded": the same numbers rounded to 0 or 1, as it has them
            with `--round-targets`.
        shuffle_window_rows: As for `RecordSource`.
        ids: "power_law", "uniform" or "normal": see `random_ids.IdDistribution`.
        repeats: Whether an id may come twice in a bag. Without repeats a bag of `k` ids still has
            `k`, in ascending order.
        indices_per_lookup: Of ragged columns: the number of ids of a row is uniform in
            [1, indices_per_lookup]; without repeats in [1, vocabulary_size] where this is less.
        dense: "uniform": dense values in [0, 1), as in the paper's code. "normal": of mean 0 and
            deviation 1.

    Attributes:
        schema: The columns.
        fingerprint: A string that changes when any of the arguments that determine rows changes.

    Raises:
        DataError: If an argument is not allowed, or if bags without repeats need more ids than
            there are.
    """

    def __init__(
        self,
        schema: Schema,
        rows: Mapping[str, int],
        seed: int,
        alpha: float = 1.05,
        label: str = "teacher",
        shuffle_window_rows: int = SHUFFLE_WINDOW_ROWS,
        *,
        ids: str = "power_law",
        repeats: bool = True,
        indices_per_lookup: int = 1,
        dense: str = "uniform",
    ) -> None:
        check_lookups(schema, indices_per_lookup, repeats)
        for split, count in rows.items():
            if count < 0:
                raise DataError(f"The split {split!r} cannot have {count} rows.")
        for name, value, allowed in (("label", label, LABELS), ("dense", dense, DENSE)):
            if value not in allowed:
                raise DataError(f"{name} must be one of {', '.join(allowed)}, not {value!r}.")
        if shuffle_window_rows < 1:
            raise DataError(f"shuffle_window_rows must be at least 1, not {shuffle_window_rows}.")
        self.schema = schema
        self._rows = dict(rows)
        self._seed = seed
        self._distribution = IdDistribution(ids, float(alpha))
        self._label = label
        self._repeats = repeats
        self._indices_per_lookup = indices_per_lookup
        self._dense = dense
        self._shuffle_window_rows = shuffle_window_rows
        self._teacher: Teacher | None = None
        self.fingerprint = hashlib.sha256(
            json.dumps(self.description(), sort_keys=True).encode()
        ).hexdigest()[:32]
        if label == "teacher":
            sample = self._features(self._block_seed("calibration", 0), _CALIBRATION_ROWS)
            self._teacher = Teacher(schema, hash_number(seed, 1), sample)

    def description(self) -> dict[str, object]:
        """All that determines the rows, for `dataset.json`."""
        return {
            "source": "tfrecords.random",
            "schema": self.schema.to_json(),
            "rows": self._rows,
            "seed": self._seed,
            "ids": dataclasses.asdict(self._distribution),
            "repeats": self._repeats,
            "indices_per_lookup": self._indices_per_lookup,
            "dense": self._dense,
            "label": self._label,
        }

    def rows(self, split: str) -> int:
        """Number of rows of a split.

        Raises:
            DataError: If there is no such split.
        """
        try:
            return self._rows[split]
        except KeyError:
            raise DataError(
                f"The random source has no split {split!r}; it has {', '.join(self._rows)}."
            ) from None

    def batches(
        self,
        split: str,
        batch_size: int,
        *,
        shuffle_seed: int | None = None,
        epoch: int = 0,
        first_row: int = 0,
        drop_remainder: bool = False,
        shard_index: int = 0,
        shard_count: int = 1,
        shard_by: str = "row",
    ) -> tf.data.Dataset:
        """One epoch of a split, or what is left of it: see `RecordSource.batches`.

        By block, a shard makes its own blocks only; there are no files to shard by.
        """
        total = self.rows(split)
        block_rows: np.ndarray = np.full(-(-total // _BLOCK_ROWS), _BLOCK_ROWS, np.int64)
        if total % _BLOCK_ROWS:
            block_rows[-1] = total % _BLOCK_ROWS
        order = epoch_order(
            block_rows,
            shuffle_seed=shuffle_seed,
            epoch=epoch,
            first_row=first_row,
            shuffle_window_rows=self._shuffle_window_rows,
            shard=Shard(shard_index, shard_count, shard_by),
        )

        def fetch(blocks: np.ndarray) -> tf.data.Dataset:
            seeds = np.array([self._block_seed(split, int(i)) for i in blocks], np.int64)
            counts = block_rows[blocks]
            dataset = tf.data.Dataset.from_tensor_slices((seeds.reshape(-1, 2), counts))
            return dataset.map(self._block, num_parallel_calls=2, deterministic=True)

        return ordered_batches(order, fetch, _join, batch_size, drop_remainder)

    def teacher_probability(self, features: Features) -> tf.Tensor:
        """The probability with which each label was drawn: no model can do better.

        Args:
            features: As `batches` yields them.

        Returns:
            float32 `[batch]`.
        """
        if self._teacher is None:
            return tf.fill([_row_count(features)], 0.5)
        return self._teacher.probability(features)

    def only_label(self, split: str) -> float | None:
        """None: every label is drawn for itself, so that both occur in all but a few rows."""
        return None

    def explain(self, error: BaseException) -> str:
        """As `RecordSource.explain`; there are no files here that could be at fault."""
        return f"Generating random rows failed: {first_line(error)}."

    def _block_seed(self, split: str, block: int) -> tuple[int, int]:
        name = int.from_bytes(hashlib.sha256(split.encode()).digest()[:8], "little")
        return (
            hash_number(self._seed, name, block, 1) >> 1,
            hash_number(self._seed, name, block, 2) >> 1,
        )

    def _block(self, seed: tf.Tensor, count: tf.Tensor) -> tuple[Features, tf.Tensor, tf.Tensor]:
        # Always a whole block, of which the first `count` rows are kept: here of ragged columns,
        # in `_join` of the others, which must have one shape to be batched.
        features = self._features(seed, _BLOCK_ROWS)
        draw = tf.random.stateless_uniform(
            [_BLOCK_ROWS], seed + [0, 1], dtype=tf.float32, alg="philox"
        )
        if self._label == "continuous":
            label = draw
        elif self._label == "rounded":
            label = tf.round(draw)
        else:
            label = tf.cast(draw < self.teacher_probability(features), tf.float32)
        for column in self.schema.categorical:
            if column.hotness is None:
                features[column.name] = features[column.name][:count]
        return features, label, count

    def _features(self, seed: tf.Tensor | tuple[int, int], rows: int) -> Features:
        seed = tf.convert_to_tensor(seed, tf.int64)
        features: Features = {}
        if self.schema.dense:
            normal = self._dense == "normal"
            draw = tf.random.stateless_normal if normal else tf.random.stateless_uniform
            features["dense"] = draw(
                [rows, len(self.schema.dense)], seed + [0, 2], dtype=tf.float32, alg="philox"
            )
        for number, column in enumerate(self.schema.categorical):
            ids = self._ids(column, rows, seed + [1, number], seed + [0, 3 + number])
            features[column.name] = tf.cast(ids, tf.as_dtype(column.dtype.type))
        return features

    def _ids(
        self, column: CategoricalColumn, rows: int, seed: tf.Tensor, length_seed: tf.Tensor
    ) -> tf.Tensor | tf.RaggedTensor:
        size = column.vocabulary_size
        width = column.hotness or self._indices_per_lookup
        if column.hotness is None:
            width = width if self._repeats else min(width, size)
            lengths = 1 + tf.random.stateless_uniform(
                [rows], length_seed, maxval=width, dtype=tf.int64, alg="philox"
            )
            if self._repeats or width == 1:
                values = draw_ids(self._distribution, size, [tf.reduce_sum(lengths)], seed)
                return tf.RaggedTensor.from_row_lengths(values, lengths, validate=False)
            bags = draw_bags(self._distribution, size, width, lengths, seed)
            return tf.RaggedTensor.from_tensor(bags, lengths)
        if self._repeats or width == 1:
            shape = [rows] if width == 1 else [rows, width]
            return draw_ids(self._distribution, size, shape, seed)
        return draw_bags(self._distribution, size, width, tf.fill([rows], width), seed)


def _join(
    blocks: tuple[Features, tf.Tensor, tf.Tensor], rows: tf.Tensor
) -> tuple[Features, tf.Tensor]:
    """The rows of the blocks of a window, `[blocks, _BLOCK_ROWS, ...]`, in one dimension."""
    features, label, counts = blocks
    ragged = {n: c.values for n, c in features.items() if isinstance(c, tf.RaggedTensor)}
    whole = {"": label} | {n: c for n, c in features.items() if n not in ragged}

    def all_rows() -> Features:
        return {n: tf.reshape(c, tf.concat([[-1], tf.shape(c)[2:]], 0)) for n, c in whole.items()}

    def first_rows() -> Features:
        kept = tf.sequence_mask(counts, _BLOCK_ROWS)
        return {name: tf.boolean_mask(column, kept) for name, column in whole.items()}

    # Only one block of a split is not full, and picking rows costs as much as making them.
    joined = tf.cond(tf.reduce_all(tf.equal(counts, _BLOCK_ROWS)), all_rows, first_rows)
    for name, column in whole.items():
        joined[name] = tf.ensure_shape(joined[name], [None, *column.shape[2:]])
    with tf.control_dependencies([tf.debugging.assert_equal(tf.reduce_sum(counts), rows)]):
        joined = {name: tf.identity(column) for name, column in joined.items()}
    label = joined.pop("")
    joined |= ragged
    return {name: joined[name] for name in features}, label


def _row_count(features: Features) -> tf.Tensor:
    column = next(iter(features.values()))
    return column.nrows() if isinstance(column, tf.RaggedTensor) else tf.shape(column)[0]


def _define_flags() -> None:
    # Not at import: this module is a library first, and its importers have flags of their own.
    flags.DEFINE_string("output_dir", None, "Folder to write.", required=True)
    flags.DEFINE_integer(
        "rows", 1_000_000, "Rows of the split 'train'.", lower_bound=0, upper_bound=10**12
    )
    flags.DEFINE_integer(
        "evaluation_rows",
        100_000,
        "Rows of the split 'evaluation'.",
        lower_bound=0,
        upper_bound=10**12,
    )
    flags.DEFINE_list(
        "tables",
        [CRITEO_KAGGLE],
        f"Vocabulary sizes of the categorical columns, comma-separated, or {CRITEO_KAGGLE}.",
    )
    flags.DEFINE_integer(
        "max_vocabulary",
        10_000,
        "Upper bound of the vocabulary sizes; 0: none.",
        lower_bound=0,
        upper_bound=2**62,
    )
    flags.DEFINE_integer(
        "dense_features", 13, "Number of dense columns.", lower_bound=0, upper_bound=10**5
    )
    flags.DEFINE_enum(
        "dense", "uniform", DENSE, "Dense values uniform in [0, 1), or normal (0, 1)."
    )
    flags.DEFINE_integer(
        "indices_per_lookup",
        1,
        "Ids per row and categorical column.",
        lower_bound=1,
        upper_bound=10**6,
    )
    flags.DEFINE_bool(
        "indices_per_lookup_fixed",
        True,
        "Whether every lookup has --indices_per_lookup ids, or a random number up to it.",
    )
    flags.DEFINE_enum(
        "ids",
        "power_law",
        IDS,
        "Distribution of the ids: a power law (--alpha), uniform, or normal around the table's "
        "middle.",
    )
    flags.DEFINE_float("alpha", 1.05, "Exponent of the power law of the ids; 0: uniform.")
    flags.DEFINE_bool("repeats", True, "Whether an id may come twice in a lookup.")
    flags.DEFINE_enum(
        "label",
        "teacher",
        LABELS,
        "Labels: from a hidden function of the features, or with no regard to them 0 or 1 (random),"
        " a number in [0, 1) (continuous), or that number rounded.",
    )
    flags.DEFINE_integer(
        "seed", 0, "Another seed gives other rows.", lower_bound=-(2**62), upper_bound=2**62
    )


def _write(source: RandomSource, output_dir: str, progress: Progress) -> None:
    rows = {split: source.rows(split) for split in ("train", "evaluation")}
    total = sum(rows.values())
    check_disk(f"A data set of {total} rows", output_dir, total * source.schema.row_bytes)
    with DatasetWriter(output_dir, source.schema, source.description(), ROWS_PER_RECORD) as writer:
        try:
            for split, count in rows.items():
                progress.begin(f"Writing {split}", count)
                done = 0
                for features, label in source.batches(split, _BLOCK_ROWS):
                    arrays = {name: _arrays(column) for name, column in features.items()}
                    writer.write(split, arrays, label.numpy())
                    done += len(label)
                    progress.update(done, done)
                progress.end(done)
        except tf.errors.OpError as error:  # above all too little memory
            raise DataError(source.explain(error)) from error


def _arrays(column: tf.Tensor | tf.RaggedTensor) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    if isinstance(column, tf.RaggedTensor):
        return column.values.numpy(), column.row_lengths().numpy()
    return column.numpy()


def main(argv: Sequence[str]) -> None:
    """Writes a generated data set, as the flags say."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown argument {argv[1]!r}; all options are flags.")
    values = flags.FLAGS
    hotness = values.indices_per_lookup if values.indices_per_lookup_fixed else None
    sizes = table_sizes([size.strip() for size in values.tables], values.max_vocabulary)
    source = RandomSource(
        random_schema(sizes, values.dense_features, hotness),
        {"train": values.rows, "evaluation": values.evaluation_rows},
        values.seed,
        alpha=values.alpha,
        label=values.label,
        ids=values.ids,
        repeats=values.repeats,
        indices_per_lookup=values.indices_per_lookup,
        dense=values.dense,
    )
    _write(source, values.output_dir, Progress())


if __name__ == "__main__":
    _define_flags()
    entry_point.run(main)
