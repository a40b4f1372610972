"""Labels that are all alike: nothing is learnt from them, and no number of them looks good."""

import dataclasses
import io
import logging

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.errors import UserError
from tf_dlrm.training.evaluation.evaluation import evaluate
from tf_dlrm.training.options.config import DataOptions
from tf_dlrm.training.run import train
from tf_dlrm.training.sources import only_label, open_source
from tfrecords.progress import Progress
from tfrecords.reader import RecordSource
from tfrecords.schema import CategoricalColumn, Schema
from tfrecords.traces.profile_dataset import ProfileOptions, profile_dataset
from tfrecords.writer import DatasetWriter


@pytest.fixture
def data_set(tmp_path):
    def make(train_label, evaluation_label):
        schema = Schema(("x",), (CategoricalColumn("a", 5),))
        folder = str(tmp_path / f"{train_label}_{evaluation_label}")
        with DatasetWriter(folder, schema) as writer:
            for split, label in (("train", train_label), ("evaluation", evaluation_label)):
                labels = np.arange(40) % 2 if label is None else np.full(40, label)
                features = {"dense": np.zeros((40, 1)), "a": np.zeros(40, int)}
                writer.write(split, features, labels.astype(np.float32))
        return folder

    return make


@pytest.fixture
def data(data_set):
    """Makes the options of data that is read from files, or made on the fly."""

    def make(kind, *labels):
        folder = data_set(*labels)
        if kind == "folder":
            return DataOptions(data_dir=folder)
        profile_dataset(
            folder, "train", f"{folder}-twin", ProfileOptions(), Progress(io.StringIO())
        )
        return DataOptions(data=kind, synthetic_dir=f"{folder}-twin")

    return make


KINDS = pytest.mark.parametrize("kind", ["folder", "synthetic"])


@KINDS
@pytest.mark.parametrize("label", [0, 1])
def test_training_rows_of_one_label_are_refused(tiny, data, kind, label):
    config = dataclasses.replace(tiny(), data=data(kind, label, None))
    with pytest.raises(UserError) as refused:
        train(config)
    assert str(refused.value) == (
        f"All 40 training rows have the label {label}, so there is nothing to learn. Train on rows "
        "of both labels, or correct what the label is made of."
    )


def test_training_rows_of_both_labels_are_not(data):
    for kind in ("folder", "synthetic"):
        source = open_source(data(kind, None, 1))
        assert (only_label(source, "train"), only_label(source, "evaluation")) == (None, 1)


def test_labels_of_a_row_by_itself_are_not_called_alike(data):
    options = data("synthetic", 1, None)
    few = dataclasses.replace(options, synthetic_train_rows=1)
    found = [only_label(open_source(each), "train") for each in (options, few)]
    assert found == [1, None]


@KINDS
def test_an_auc_that_is_never_reached_is_refused(tiny, data, kind):
    data = data(kind, None, 1)
    config = tiny(target_auc=0.7, eval_every_steps=1)
    with pytest.raises(UserError, match="never reached: all evaluation rows have the label 1"):
        train(dataclasses.replace(config, data=data))


@pytest.mark.parametrize("label", [0, 1])
def test_an_evaluation_of_one_label_is_undefined_and_says_so(data_set, label, caplog):
    caplog.set_level(logging.WARNING)
    source = RecordSource(data_set(None, label))
    logit = 2.0 if label else -2.0  # always right
    metrics = evaluate(lambda features: tf.fill([40], logit), source, "evaluation", 40)
    assert [metrics[name] for name in ("auc", "accuracy", "normalized_entropy")] == [None] * 3
    assert metrics["log_loss"] == pytest.approx(np.log1p(np.exp(-2.0)), rel=1e-6)
    assert f"all 40 labels of split 'evaluation' are {label}, so AUC" in caplog.text
