"""Names of columns that are no identifiers: known before training, and told by the export."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.errors import UserError
from tf_dlrm.training.evaluation.assessment import assess
from tf_dlrm.training.options.config import DataOptions
from tf_dlrm.training.options.evaluation import EvaluationOptions
from tf_dlrm.training.run import train
from tfrecords.schema import CategoricalColumn, Schema
from tfrecords.writer import DatasetWriter


def _data_set(folder, *columns):
    schema = Schema(("x",), columns)
    rng = np.random.default_rng(0)
    with DatasetWriter(str(folder), schema) as writer:
        for split in ("train", "evaluation"):
            features = {"dense": rng.random((60, 1))}
            for column in columns:
                if column.hotness:
                    features[column.name] = rng.integers(0, 9, 60)
                else:
                    features[column.name] = (rng.integers(0, 9, 120), np.full(60, 2))
            writer.write(split, features, rng.integers(0, 2, 60).astype(np.float32))
    return DataOptions(data_dir=str(folder))


@pytest.mark.slow
def test_the_export_has_inputs_of_names_that_are_told(tiny, tmp_path, caplog):
    caplog.set_level("INFO")
    columns = [CategoricalColumn(name, 9) for name in ("a-b", "x y", "1st", "c")]
    columns.append(CategoricalColumn("tags/all", 9, None))
    config = tiny(export_dir=str(tmp_path / "export"))
    config = dataclasses.replace(config, data=_data_set(tmp_path / "set", *columns))
    result = train(config)
    assert "column 'a-b' is the input 'a_b' of an exported model" in caplog.text
    serve = tf.saved_model.load(str(tmp_path / "export")).signatures["serving_default"]
    names = {"dense", "a_b", "x_y", "arg_1st", "c", "tags_all", "tags_all_row_lengths"}
    assert set(serve.structured_input_signature[1]) == names
    exported = assess(EvaluationOptions(saved_model=str(tmp_path / "export"), eval_batch_size=60))
    assert exported["log_loss"] == pytest.approx(result["log_loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("names", "same"),
    [(("a-b", "a_b"), "a_b"), (("1", "arg_1"), "arg_1"), (("t", "t-row-lengths"), "t_row_lengths")],
)
def test_two_columns_of_one_input_are_refused_before_training(tiny, tmp_path, names, same):
    first, second = names
    columns = (
        CategoricalColumn(first, 9, None if first == "t" else 1),
        CategoricalColumn(second, 9),
    )
    config = dataclasses.replace(tiny(), data=_data_set(tmp_path / "set", *columns))
    with pytest.raises(UserError, match=f"would have two inputs named '{same}'"):
        train(config)
