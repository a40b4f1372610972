"""Hit ratio and NDCG at 10, and models of ratings that are ranked by them."""

import dataclasses

import numpy as np
import pytest

from tf_dlrm.errors import UserError
from tf_dlrm.training.evaluation.assessment import assess
from tf_dlrm.training.evaluation.ranking_metrics import ranking_metrics
from tf_dlrm.training.options.config import DataOptions
from tf_dlrm.training.options.evaluation import EvaluationOptions
from tf_dlrm.training.restore import CheckpointedRun
from tf_dlrm.training.run import open_source, train
from tfrecords.leave_one_out import Interactions, write


def group(rank, size=20):
    """Scores and labels of a group whose positive is in the middle and has a rank."""
    scores = np.arange(size, dtype=float)[::-1]
    order = np.roll(np.arange(size), 7)
    return scores[order], (order == rank).astype("f")


@pytest.mark.parametrize("rank", [0, 1, 9, 10, 19])
def test_one_group(rank):
    found = ranking_metrics(*group(rank), 20)
    assert found["hit_ratio_at_10"] == (rank < 10)
    wanted = 1 / np.log2(rank + 2) if rank < 10 else 0.0
    assert found["ndcg_at_10"] == pytest.approx(wanted)


def test_groups_are_averaged():
    parts = [group(rank) for rank in (0, 3, 12)]
    scores, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    found = ranking_metrics(scores, labels, 20)
    assert found["hit_ratio_at_10"] == pytest.approx(2 / 3)
    assert found["ndcg_at_10"] == pytest.approx((1 + 1 / np.log2(5)) / 3)
    assert ranking_metrics(scores, labels, 20, cutoff=3)["hit_ratio_at_3"] == pytest.approx(1 / 3)


def test_a_model_that_scores_all_alike_is_as_good_as_chance():
    labels = np.zeros(100)
    labels[0] = 1
    found = ranking_metrics(np.zeros(100), labels, 100)
    assert found["hit_ratio_at_10"] == pytest.approx(0.1)
    assert found["ndcg_at_10"] == pytest.approx(np.mean(1 / np.log2(np.arange(2, 12))) / 10)
    # Eight are better, and of three alike the first two places are within ten.
    scores = np.r_[1.0, np.full(8, 2.0), 1.0, 1.0, np.zeros(89)]
    assert ranking_metrics(scores, labels, 100)["hit_ratio_at_10"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("labels", "size", "sentence"),
    [
        ([1, 0, 0], 2, "--ranking_group_size=2 does not divide the 3 rows that were evaluated."),
        ([1, 0, 0, 0], 2, "each group needs one positive row, but rows 2 to 3 have 0."),
        ([1, 0, 1, 1], 2, "each group needs one positive row, but rows 2 to 3 have 2."),
    ],
)
def test_rows_that_are_no_groups_are_said_to_be_none(labels, size, sentence):
    with pytest.raises(UserError, match=sentence):
        ranking_metrics(np.zeros(len(labels)), np.asarray(labels), size)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A data set of 200 users and 300 items in four groups; users have items of their own group."""
    folder = tmp_path_factory.mktemp("planted") / "data"
    rng = np.random.default_rng(0)
    users, items = [], []
    for user in range(200):
        users += [user] * 20
        items += list(4 * rng.choice(75, 20, replace=False) + user % 4)
    data = Interactions(np.array(users), np.array(items), np.arange(200), np.arange(300))
    numbers = {"training_negatives": 4, "evaluation_negatives": 99, "passes": 4, "seed": 0}
    write(data, str(folder), **numbers, how_it_was_made={})
    return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["neural_collaborative_filtering", "matrix_factorization"])
def test_models_of_ratings_rank_what_users_like_first(tiny, planted, model):
    config = tiny(
        model=model,
        embedding_dim=8,
        bottom_mlp=(512, 256, 64, 16),
        top_mlp=(512, 256, 1) if model == "matrix_factorization" else (16, 1),
        embedding_optimizer="adagrad",
        embedding_learning_rate=0.1,
        embedding_initializer_scale=0.1,
        dense_optimizer="adam",
        dense_learning_rate=0.01,
        random_dense_features=13,
        **({} if model == "matrix_factorization" else {"gmf_dim": 4}),
    )
    config = dataclasses.replace(config, data=DataOptions(data_dir=planted))
    train(config)
    options = EvaluationOptions(config.run.model_dir, eval_batch_size=333)
    found = assess(dataclasses.replace(options, ranking_group_size=100))
    # A quarter of the items is of the user's group, so the best is 10 of 25 or so; chance is 0.1.
    assert 0.25 < found["hit_ratio_at_10"] < 0.6
    restored, _ = CheckpointedRun(config.run.model_dir).restore()
    source = open_source(config.data)
    features, _ = next(iter(source.batches("evaluation", source.rows("evaluation"))))
    scores = np.asarray(restored(features)).reshape(-1, 100)
    ranks = (scores[:, 1:] > scores[:, :1]).sum(1)
    assert found["hit_ratio_at_10"] == pytest.approx((ranks < 10).mean(), abs=0.006)
    gains = np.where(ranks < 10, 1 / np.log2(ranks + 2), 0.0)
    assert found["ndcg_at_10"] == pytest.approx(gains.mean(), abs=0.006)
    assert "hit_ratio_at_10" not in assess(options)
