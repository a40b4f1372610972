import dataclasses
import functools
import pathlib

import pytest

from tf_dlrm.training.config import (
    DataOptions,
    DistributionOptions,
    ModelOptions,
    OptimizerOptions,
    RunOptions,
    TrainingConfig,
)


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
            "run": RunOptions(model_dir=str(folder), batch_size=100, eval_batch_size=256, seed=3),
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
