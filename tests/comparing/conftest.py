import dataclasses

import pytest

from tf_dlrm.comparing.options import CompareOptions
from tf_dlrm.training.options.config import (
    DataOptions,
    ModelOptions,
    OptimizerOptions,
    RunOptions,
    TrainingConfig,
)


@pytest.fixture
def common():
    """Options of small runs, 20 steps each, that end in two seconds beside TensorFlow's start."""
    return TrainingConfig(
        data=DataOptions(
            data="random",
            random_tables=("50", "60", "70"),
            random_dense_features=4,
            random_train_rows=2000,
            random_evaluation_rows=500,
        ),
        model=ModelOptions(embedding_dim=4, bottom_mlp=(8, 4), top_mlp=(16, 8, 1)),
        optimizer=OptimizerOptions(),
        run=RunOptions(batch_size=100, eval_every_steps=10, checkpoint_every_steps=5),
    )


@pytest.fixture
def compare_options():
    """Returns a function that makes valid options of a comparison in a folder."""

    def make(folder, **changes):
        made = CompareOptions(output_dir=str(folder), **changes)
        made.validate()
        return made

    return make


@pytest.fixture
def with_model(common):
    """Returns a function that changes options of the model."""

    def change(**options):
        return dataclasses.replace(common, model=dataclasses.replace(common.model, **options))

    return change
