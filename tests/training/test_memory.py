"""What does not fit into memory is refused before it is made."""

import pytest
import tensorflow as tf

from tf_dlrm.errors import UserError
from tf_dlrm.training import memory
from tf_dlrm.training.build import build_model
from tf_dlrm.training.memory import said_when_it_runs_out
from tf_dlrm.training.options.config import OptimizerOptions
from tf_dlrm.training.options.model import ModelOptions
from tf_dlrm.training.run import train
from tfrecords import machine
from tfrecords.errors import DataError
from tfrecords.schema import CategoricalColumn, Schema


@pytest.mark.parametrize(
    ("options", "optimizer", "size", "needed"),
    [
        # Rows of 4 numbers of 4 bytes, and as many for each slot.
        ({}, "sgd", 10**14, "1,600.0 TB"),
        ({}, "adagrad", 10**14, "3,200.0 TB"),
        ({}, "rowwise_adagrad", 10**14, "2,000.0 TB"),
        ({"ensemble_size": 3}, "lazy_adam", 10**14, "14,400.0 TB"),
        ({"top_mlp": (10**7, 10**6, 1)}, "sgd", 5, "40.0 TB"),
        ({"bottom_mlp": (10**12, 4)}, "sgd", 5, "24.0 TB"),
    ],
)
def test_a_model_larger_than_memory_says_what_it_needs(
    monkeypatch, options, optimizer, size, needed
):
    monkeypatch.setattr(memory, "available_bytes", lambda: 3 * 10**9)
    schema = Schema(("x", "y"), (CategoricalColumn("few", 5), CategoricalColumn("many", size)))
    sizes = {"embedding_dim": 4, "bottom_mlp": (8, 4), "top_mlp": (8, 1)} | options
    with pytest.raises(UserError) as error:
        build_model(ModelOptions(**sizes), OptimizerOptions(optimizer), schema, seed=0)
    sentence = str(error.value)
    assert f"needs {needed} of memory or more, but this machine has 3.0 GB left" in sentence
    assert ("The largest table, many, has 100000000000000 rows" in sentence) == (size > 5)


def test_a_batch_larger_than_memory_is_refused(tiny, monkeypatch):
    monkeypatch.setattr(machine, "available_bytes", lambda: 300)
    with pytest.raises(DataError, match="^A batch of --batch_size=64 needs .* of memory or more"):
        train(tiny(batch_size=64))


@pytest.mark.parametrize(
    "error", [MemoryError("no more"), tf.errors.ResourceExhaustedError(None, None, "no more")]
)
def test_an_allocation_that_fails_is_a_sentence(error):
    with pytest.raises(UserError, match=r"not enough memory \(no more\)\. Take less\."):
        with said_when_it_runs_out("Take less."):
            raise error
