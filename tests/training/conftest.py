import contextlib
import dataclasses
import functools
import pathlib
import shutil
from collections.abc import Iterator

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.training import sources
from tf_dlrm.training.options.config import (
    DataOptions,
    DistributionOptions,
    ModelOptions,
    OptimizerOptions,
    RunOptions,
    TrainingConfig,
)
from tf_dlrm.training.run import train

_RANDOM_SOURCE = sources._random_source


@pytest.fixture
def tiny(tmp_path: pathlib.Path, make_tiny):
    """Returns a function that makes a small training config, 20 steps an epoch."""
    return functools.partial(make_tiny, tmp_path / "run")


@pytest.fixture(scope="session")
def make_tiny():
    """Returns a function that makes such a config for a folder of a run."""

    def make(folder: pathlib.Path, /, **changes) -> TrainingConfig:
        parts = {
            "data": DataOptions(
                data="random",
                random_tables=("50", "60", "70"),
                random_dense_features=4,
                random_train_rows=1950,
                random_evaluation_rows=700,
                shuffle_window_rows=512,
            ),
            "model": ModelOptions(embedding_dim=4, bottom_mlp=(8, 4), top_mlp=(8, 1)),
            "optimizer": OptimizerOptions(),
            "run": RunOptions(model_dir=str(folder), batch_size=100, eval_batch_size=350, seed=3),
            "distribution": DistributionOptions(),
        }
        for name, part in parts.items():
            known = {field.name for field in dataclasses.fields(part)} & set(changes)
            parts[name] = dataclasses.replace(part, **{key: changes.pop(key) for key in known})
        assert not changes, changes
        config = TrainingConfig(**parts)
        config.validate()
        return config

    return make


class RowsInMemory:
    """A source of rows that are made once, by NumPy, and can be learned from.

    Most of a short run is the tracing of how a random source makes, windows and cuts its rows,
    which is the same in every run and is tested with the sources.
    """

    def __init__(self, options: DataOptions) -> None:
        # No teacher, which would be calibrated on rows of the random source.
        source = _RANDOM_SOURCE(dataclasses.replace(options, random_label="random"))
        self.schema, self.fingerprint = source.schema, source.fingerprint
        self.rows, self.explain = source.rows, source.explain
        self.only_label = source.only_label
        self._lookup = options.random_indices_per_lookup
        self._kept = {split: self._make(split) for split in ("train", "evaluation")}

    def _make(self, split: str) -> tuple:
        count = self.rows(split)
        rng, weights = np.random.default_rng(len(split)), np.random.default_rng(0)
        features = {"dense": rng.random((count, len(self.schema.dense)), np.float32)}
        logits = features["dense"].sum(1) - len(self.schema.dense) / 2  # zeros without any
        if not self.schema.dense:
            del features["dense"]
        for column in self.schema.categorical:
            lengths = np.full(count, column.hotness or self._lookup)
            if not column.hotness:
                lengths = rng.integers(1, self._lookup + 1, count)
            # Small ids are more frequent.
            ids = (column.vocabulary_size * rng.random(lengths.sum()) ** 2).astype(np.int64)
            effect = 1.5 * weights.normal(size=column.vocabulary_size)
            logits += np.add.reduceat(effect[ids], np.cumsum(lengths) - lengths) / lengths
            features[column.name] = tf.RaggedTensor.from_row_lengths(ids, lengths)
            if column.hotness:
                features[column.name] = ids if column.hotness == 1 else ids.reshape(count, -1)
        labels = rng.random(count) < 1 / (1 + np.exp(-1 - logits))
        return features, labels.astype(np.float32)

    def batches(
        self,
        split: str,
        batch_size: int,
        *,
        shuffle_seed: int | None = None,
        epoch: int = 0,
        first_row: int = 0,
    ) -> tf.data.Dataset:
        order = np.arange(self.rows(split))
        if shuffle_seed is not None:
            order = np.random.default_rng([shuffle_seed, epoch]).permutation(order)
        rows = tf.nest.map_structure(
            lambda column: tf.gather(column, order[first_row:]), self._kept[split]
        )
        return tf.data.Dataset.from_tensor_slices(rows).batch(batch_size)


_rows_in_memory = functools.cache(RowsInMemory)


@contextlib.contextmanager
def _reading_from_memory() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "_random_source", _rows_in_memory)
        yield


@pytest.fixture(scope="module", autouse=True)
def rows_in_memory() -> Iterator[None]:
    """Runs with --data=random read rows that were made once, in an order of their own."""
    with _reading_from_memory():
        yield


@pytest.fixture
def rows_as_they_are_made(monkeypatch):
    """Runs with --data=random read what they read outside of tests."""
    monkeypatch.setattr(sources, "_random_source", _RANDOM_SOURCE)


@pytest.fixture(scope="session")
def copy_as_of():
    """Returns a function that copies a run's folder as it was when a step's checkpoint was new."""

    def copy(folder: str, target: str, step: int) -> None:
        shutil.copytree(folder, target)
        checkpoints = pathlib.Path(target) / "checkpoints"
        for path in checkpoints.glob("checkpoint-*"):
            if not path.name.startswith(f"checkpoint-{step}."):
                path.unlink()
        (checkpoints / "checkpoint").write_text(f'model_checkpoint_path: "checkpoint-{step}"\n')

    return copy


@pytest.fixture(scope="session")
def _runs(make_tiny, tmp_path_factory):
    """Returns the folder and the result of a run of so many steps, trained once."""

    @functools.cache
    def run(steps: int) -> tuple[pathlib.Path, dict]:
        folder = tmp_path_factory.mktemp("runs") / "run"
        with _reading_from_memory():
            return folder, train(make_tiny(folder, train_steps=steps))

    return run


@pytest.fixture
def begun(tiny, _runs) -> TrainingConfig:
    """The config of a run that has stopped after 3 steps of an epoch's 20."""
    config = tiny(train_steps=3)
    shutil.copytree(_runs(3)[0], config.run.model_dir)
    return config


@pytest.fixture
def finished(tiny, _runs) -> tuple[TrainingConfig, dict]:
    """The config of a run of one epoch that has come to its end, and its result."""
    config = tiny()
    folder, result = _runs(0)
    shutil.copytree(folder, config.run.model_dir)
    return config, result
