"""Generated click logs: the random source of the paper, with labels that can be learnt.

`python -m tfrecords.random --output_dir=DIR` writes such a data set to a folder; the class makes
the same rows on the fly, without files.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
from absl import app, flags

from tfrecords.criteo_schema import criteo_shaped
from tfrecords.errors import DataError
from tfrecords.hashing import hash_number
from tfrecords.order import SHUFFLE_WINDOW_ROWS, Features, epoch_order, ordered_batches
from tfrecords.schema import CategoricalColumn, Schema
from tfrecords.teacher import Teacher
from tfrecords.writer import ROWS_PER_RECORD, DatasetWriter

_BLOCK_ROWS = 8192
_CALIBRATION_ROWS = 32_768
LABELS = ("teacher", "random")


class RandomSource:
    """Rows that are generated while they are read; the interface is that of `RecordSource`.

    Block `i` of a split is a function of (seed, split, i) alone, so there is nothing to store, any
    epoch can begin anywhere, and two splits never share a row's draw.

    Dense values are uniform in [0, 1) (as in the paper's code). Ids follow a power law: the
    probability of id `k` falls about as `(k + 1) ** -alpha`.

    Args:
        schema: The columns; each needs a fixed hotness.
        rows: Rows per split, for example `{"train": 1_000_000, "evaluation": 100_000}`.
        seed: Another seed gives other rows and another teacher.
        alpha: Exponent of the power law; 0 makes all ids equally likely.
        label: "teacher": drawn with the probability that a hidden function of the features gives
            (see `teacher`), about a quarter of them 1; a model that learns nothing has an AUC of
            0.5, a perfect one about 0.85. "random": 0 or 1 with equal chance, whatever the
            features.
        shuffle_window_rows: As for `RecordSource`.

    Attributes:
        schema: The columns.
        fingerprint: A string that changes when any of the arguments that determine rows changes.

    Raises:
        DataError: If an argument is not allowed.
    """

    def __init__(
        self,
        schema: Schema,
        rows: Mapping[str, int],
        seed: int,
        alpha: float = 1.05,
        label: str = "teacher",
        shuffle_window_rows: int = SHUFFLE_WINDOW_ROWS,
    ) -> None:
        for column in schema.categorical:
            if column.hotness is None:
                raise DataError(
                    f"Column {column.name!r} is ragged (hotness None); the random source makes "
                    "columns of a fixed number of ids per row only."
                )
        for split, count in rows.items():
            if count < 0:
                raise DataError(f"The split {split!r} cannot have {count} rows.")
        if not 0 <= alpha <= 20:
            raise DataError(f"alpha must lie between 0 (uniform) and 20, not {alpha}.")
        if label not in LABELS:
            raise DataError(f"label must be one of {', '.join(LABELS)}, not {label!r}.")
        if shuffle_window_rows < 1:
            raise DataError(f"shuffle_window_rows must be at least 1, not {shuffle_window_rows}.")
        self.schema = schema
        self._rows = dict(rows)
        self._seed = seed
        self._alpha = float(alpha)
        self._label = label
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
            "alpha": self._alpha,
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
    ) -> tf.data.Dataset:
        """One epoch of a split, or what is left of it: see `RecordSource.batches`."""
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

    def explain(self, error: BaseException) -> str:
        """As `RecordSource.explain`; there are no files here that could be at fault."""
        first_line = (str(error).splitlines() or [repr(error)])[0]
        return f"Generating random rows failed: {first_line}"

    def _block_seed(self, split: str, block: int) -> tuple[int, int]:
        name = int.from_bytes(hashlib.sha256(split.encode()).digest()[:8], "little")
        return (
            hash_number(self._seed, name, block, 1) >> 1,
            hash_number(self._seed, name, block, 2) >> 1,
        )

    def _block(self, seed: tf.Tensor, count: tf.Tensor) -> tuple[Features, tf.Tensor, tf.Tensor]:
        # Always a whole block, of which `_join` takes the first `count` rows.
        features = self._features(seed, _BLOCK_ROWS)
        draw = tf.random.stateless_uniform(
            [_BLOCK_ROWS], seed + [0, 1], dtype=tf.float32, alg="philox"
        )
        label = tf.cast(draw < self.teacher_probability(features), tf.float32)
        return features, label, count

    def _features(self, seed: tf.Tensor | tuple[int, int], rows: int) -> Features:
        seed = tf.convert_to_tensor(seed, tf.int64)
        features: Features = {}
        if self.schema.dense:
            features["dense"] = tf.random.stateless_uniform(
                [rows, len(self.schema.dense)], seed + [0, 2], dtype=tf.float32, alg="philox"
            )
        for number, column in enumerate(self.schema.categorical):
            shape = [rows] if column.hotness == 1 else [rows, column.hotness]
            uniform = tf.random.stateless_uniform(
                shape, seed + [1, number], dtype=tf.float64, alg="philox"
            )
            features[column.name] = _power_law(uniform, column, self._alpha)
        return features


def _power_law(uniform: tf.Tensor, column: CategoricalColumn, alpha: float) -> tf.Tensor:
    """Ids whose density falls as `(id + 1) ** -alpha`: the inverse of its integral."""
    size = column.vocabulary_size
    if alpha == 1.0:
        ranks = tf.exp(uniform * np.log(size + 1.0))
    else:
        power = 1.0 - alpha
        # float64: float32 has 2**24 steps, fewer than a large table has rows.
        ranks = (1.0 + uniform * ((size + 1.0) ** power - 1.0)) ** (1.0 / power)
    ids = tf.cast(ranks, tf.int64) - 1
    return tf.cast(tf.clip_by_value(ids, 0, size - 1), tf.as_dtype(column.dtype.type))


def _join(
    blocks: tuple[Features, tf.Tensor, tf.Tensor], rows: tf.Tensor
) -> tuple[Features, tf.Tensor]:
    """The rows of the blocks of a window, `[blocks, _BLOCK_ROWS, ...]`, in one dimension."""
    features, label, counts = blocks
    kept = tf.sequence_mask(counts, _BLOCK_ROWS)
    joined = tf.nest.map_structure(lambda column: tf.boolean_mask(column, kept), (features, label))
    with tf.control_dependencies([tf.debugging.assert_equal(tf.reduce_sum(counts), rows)]):
        return tf.nest.map_structure(tf.identity, joined)


def _row_count(features: Features) -> tf.Tensor:
    return tf.shape(next(iter(features.values())))[0]


def _define_flags() -> None:
    # Not at import: this module is a library first, and its importers have flags of their own.
    flags.DEFINE_string("output_dir", None, "Folder to write.", required=True)
    flags.DEFINE_integer("rows", 1_000_000, "Rows of the split 'train'.", lower_bound=0)
    flags.DEFINE_integer(
        "evaluation_rows", 100_000, "Rows of the split 'evaluation'.", lower_bound=0
    )
    flags.DEFINE_integer(
        "max_vocabulary", 10_000, "Upper bound for the sizes of Criteo's 26 columns.", lower_bound=1
    )
    flags.DEFINE_integer("ids_per_lookup", 1, "Ids per row and categorical column.", lower_bound=1)
    flags.DEFINE_float("alpha", 1.05, "Exponent of the power law of the ids; 0: uniform.")
    flags.DEFINE_enum(
        "label", "teacher", LABELS, "Whether labels follow from the features or from nothing."
    )
    flags.DEFINE_integer("seed", 0, "Another seed gives other rows.")


def _write(source: RandomSource, output_dir: str) -> None:
    with DatasetWriter(output_dir, source.schema, source.description(), ROWS_PER_RECORD) as writer:
        for split in ("train", "evaluation"):
            for features, label in source.batches(split, _BLOCK_ROWS):
                arrays = {name: column.numpy() for name, column in features.items()}
                writer.write(split, arrays, label.numpy())


def main(argv: Sequence[str]) -> None:
    """Writes a generated data set, as the flags say."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown argument {argv[1]!r}; all options are flags.")
    try:
        source = RandomSource(
            criteo_shaped(flags.FLAGS.max_vocabulary, flags.FLAGS.ids_per_lookup),
            {"train": flags.FLAGS.rows, "evaluation": flags.FLAGS.evaluation_rows},
            flags.FLAGS.seed,
            alpha=flags.FLAGS.alpha,
            label=flags.FLAGS.label,
        )
        _write(source, flags.FLAGS.output_dir)
    except DataError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    _define_flags()
    app.run(main)
