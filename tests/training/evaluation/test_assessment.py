import dataclasses

import numpy as np
import pytest

from tf_dlrm.errors import UserError
from tf_dlrm.training.evaluation.assessment import assess
from tf_dlrm.training.options.config import DataOptions
from tf_dlrm.training.options.evaluation import EvaluationOptions
from tf_dlrm.training.run import train
from tfrecords.schema import CategoricalColumn, Schema
from tfrecords.writer import DatasetWriter


@pytest.fixture(scope="module")
def trained(make_tiny, tmp_path_factory):
    """A model directory, and the labels of the split 'test' of its data."""
    folder = tmp_path_factory.mktemp("assessment")
    rng = np.random.default_rng(0)
    schema = Schema(("x",), (CategoricalColumn("a", 20), CategoricalColumn("b", 10)))
    labels = {}
    with DatasetWriter(str(folder / "set"), schema) as writer:
        for split, rows in (("train", 300), ("evaluation", 50), ("test", 70)):
            features = {
                "dense": rng.random((rows, 1)),
                "a": rng.integers(0, 20, rows),
                "b": rng.integers(0, 10, rows),
            }
            labels[split] = rng.integers(0, 2, rows).astype(np.float32)
            writer.write(split, features, labels[split])
    config = make_tiny(folder / "run", bottom_mlp=(8, 4))
    config = dataclasses.replace(config, data=DataOptions(data_dir=str(folder / "set")))
    train(config)
    return config.run.model_dir, labels["test"]


def _assess(model_dir, split, predictions=0):
    return assess(
        EvaluationOptions(model_dir, split=split, eval_batch_size=32, print_predictions=predictions)
    )


def test_the_split_that_is_asked_for(trained):
    model_dir, labels = trained
    result = _assess(model_dir, "test", predictions=70)
    assert result["examples"] == 70
    assert [row["label"] for row in result["predictions"]] == labels.tolist()
    probability = np.array([row["probability"] for row in result["predictions"]])
    log_loss = -np.mean(np.where(labels == 1, np.log(probability), np.log1p(-probability)))
    assert result["log_loss"] == pytest.approx(log_loss, rel=1e-6)
    assert _assess(model_dir, "evaluation")["examples"] == 50


def test_a_split_that_is_not_there(trained):
    with pytest.raises(
        UserError, match="no rows in its split 'validation', so it can't be evaluated"
    ):
        _assess(trained[0], "validation")


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--max_difference=nan", "--max_difference=nan must be a finite number"),
        ("--eval_steps=99999999999999999999", "eval_steps"),
        ("--print_predictions=-1", "print_predictions"),
    ],
)
def test_numbers_that_cannot_be_are_refused_by_name(run_command, tmp_path, flag, words):
    done = run_command(
        "tf_dlrm.evaluate", f"--saved_model={tmp_path}", f"--against={tmp_path}", flag
    )
    assert done.code != 0 and words in done.err + done.out, (done.err, done.out)
    assert "Traceback" not in done.err
