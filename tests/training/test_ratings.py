"""Ratings in MovieLens's layout, by the descriptions of `tfrecords.convert`, and their models."""

import csv
import dataclasses
import functools

import numpy as np
import pytest

from tf_dlrm import models
from tf_dlrm.errors import UserError
from tf_dlrm.training.options.config import DataOptions
from tf_dlrm.training.restore import CheckpointedRun
from tf_dlrm.training.run import open_source, train


@pytest.fixture(scope="module")
def ratings(tmp_path_factory):
    """A file of 6,000 ratings: users of one half like films of theirs, and rate others low."""
    path = tmp_path_factory.mktemp("ratings") / "ratings.csv"
    rng = np.random.default_rng(0)
    users, films = rng.integers(0, 60, 6000), rng.integers(0, 40, 6000)
    likes = users % 2 == films % 2
    stars = np.where(likes, 4.0, 1.0) + rng.integers(0, 3, 6000) / 2
    times = 1_500_000_000 + rng.integers(0, 10**8, 6000)
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["userId", "movieId", "rating", "timestamp"])
        writer.writerows(zip(7 * users + 3, 100 * films + 1, stars, times, strict=True))
    return path


@pytest.fixture(scope="module")
def converted(ratings, run_command, tmp_path_factory):
    """The data set that a schema makes of the ratings."""

    @functools.cache
    def convert(schema):
        folder = tmp_path_factory.mktemp("converted") / schema
        flags = [f"--schema={schema}", f"--input={ratings}", f"--output_dir={folder}"]
        done = run_command("tfrecords.convert", *flags, "--shuffle=total")
        assert done.code == 0, done.err
        return DataOptions(data_dir=str(folder))

    return convert


@pytest.mark.parametrize(
    "model",
    [
        pytest.param("matrix_factorization", marks=pytest.mark.slow),
        pytest.param("factorization_machine", marks=pytest.mark.exhaustive),
    ],
)
def test_models_learn_whose_films_are_whose(tiny, converted, model):
    schema = "movielens_pairs" if model == "matrix_factorization" else "movielens"
    config = tiny(
        model=model,
        bottom_mlp=(512, 256, 64, 16),
        top_mlp=(512, 256, 1),
        embedding_optimizer="adagrad",
        embedding_learning_rate=0.2,
        embedding_initializer_scale=0.1,
        random_dense_features=13,
        epochs=3,
    )
    config = dataclasses.replace(config, data=converted(schema))
    result = train(config)
    source = open_source(config.data)
    assert source.rows("train") == 5143 and source.rows("evaluation") == 857
    columns = {column.name: column.vocabulary_size for column in source.schema.categorical}
    # Id 0 is for users and films that training never saw.
    assert (columns["userId"], columns["movieId"]) == (61, 41)
    assert len(columns) == (2 if model == "matrix_factorization" else 4)
    _, labels = next(iter(source.batches("evaluation", 857)))
    assert 0.4 < np.mean(labels) < 0.6
    assert result["auc"] > 0.98 and result["accuracy"] > 0.93
    restored, _ = CheckpointedRun(config.run.model_dir).restore()
    kind = models.MatrixFactorization if model == "matrix_factorization" else models.FM
    assert type(restored) is kind


def test_what_a_factorization_of_two_does_not_read_is_a_sentence(tiny, converted):
    config = tiny(
        model="matrix_factorization", bottom_mlp=(512, 256, 64, 16), top_mlp=(512, 256, 1)
    )
    with pytest.raises(UserError, match=r"reads two .*there are 4 \(userId, movieId, hour_of_day"):
        train(dataclasses.replace(config, data=converted("movielens")))
