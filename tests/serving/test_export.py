import importlib.metadata
import json
import os
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.embeddings import SGD, FeatureConfig, TableConfig
from tf_dlrm.errors import UserError
from tf_dlrm.models import DLRM, DLRMConfig
from tf_dlrm.serving.export import export_model
from tf_dlrm.serving.saved_model import load_saved_model
from tfrecords.schema import CategoricalColumn, Schema

RUN = {"step": 7}
SCHEMA = Schema(
    dense=("a", "b"),
    categorical=(
        CategoricalColumn("one", 10, 1, out_of_vocabulary=0),
        CategoricalColumn("three", 20, 3),
    ),
)


@pytest.fixture(scope="module")
def model():
    tables = [
        FeatureConfig(
            c.name,
            TableConfig(c.name, c.vocabulary_size, 4, out_of_vocabulary=oov, optimizer=SGD(0.01)),
        )
        for c, oov in zip(SCHEMA.categorical, (0, None), strict=True)
    ]
    return DLRM(DLRMConfig(2, tuple(tables), (8, 4), (8, 1)))


@pytest.fixture(scope="module")
def export_dir(model, tmp_path_factory):
    """An export that tests read or copy."""
    folder = tmp_path_factory.mktemp("exports") / "export"
    export_model(model, SCHEMA, str(folder), RUN)
    return folder


@pytest.fixture(scope="module")
def serve(export_dir):
    return tf.saved_model.load(str(export_dir)).signatures["serving_default"]


def features(rows):
    rng = np.random.default_rng(1)
    return {
        "dense": tf.constant(rng.normal(size=(rows, 2)).astype("float32")),
        "one": tf.constant(rng.integers(0, 10, rows)),
        "three": tf.constant(rng.integers(0, 20, (rows, 3))),
    }


@pytest.mark.parametrize("rows", [0, 1, 2, 33])
def test_any_batch_size_and_several_ids_a_feature(model, serve, rows):
    inputs = features(rows)
    expected = tf.sigmoid(model(inputs))[:, 0]
    np.testing.assert_allclose(serve(**inputs)["probability"], expected, atol=1e-6)


def test_ids_outside_the_vocabulary(serve):
    inputs = features(4)
    known = serve(**inputs | {"one": tf.zeros(4, tf.int64)})["probability"]
    unknown = serve(**inputs | {"one": tf.constant([-1, 10, 11, 1 << 40], tf.int64)})["probability"]
    np.testing.assert_array_equal(unknown, known)
    with pytest.raises(tf.errors.InvalidArgumentError, match="Feature three has the id 20"):
        serve(**inputs | {"three": tf.fill((4, 3), tf.constant(20, tf.int64))})


def test_an_export_replaces_an_earlier_one_and_nothing_else(model, export_dir, tmp_path):
    target = tmp_path / "prod"
    backup = tmp_path / "prod.old"
    backup.mkdir()
    (backup / "keep").write_text("mine")
    shutil.copytree(export_dir, target)
    (target / "of_before").write_text("")
    export_model(model, SCHEMA, str(target), {"step": 2})
    assert not (target / "of_before").exists()
    assert load_saved_model(str(target))[1]["step"] == 2
    assert (backup / "keep").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["prod", "prod.old"]
    with pytest.raises(UserError, match="is not empty and is no SavedModel"):
        export_model(model, SCHEMA, str(backup), RUN)


def test_a_failed_export_leaves_the_earlier_one(model, export_dir, tmp_path, monkeypatch):
    target = shutil.copytree(export_dir, tmp_path / "export")

    def full(*args, **kwargs):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", full)
    with pytest.raises(UserError, match="No space left on device.*is unchanged"):
        export_model(model, SCHEMA, str(target), {"step": 2})
    monkeypatch.undo()
    assert load_saved_model(str(target))[1]["step"] == RUN["step"]
    assert os.listdir(tmp_path) == ["export"]


@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize("place", ["table", "weight"])
def test_numbers_that_are_not_finite_are_not_exported(model, tmp_path, number, place):
    copy = DLRM(model.config)
    if place == "table":
        copy.embeddings.tables["three"].assign_rows(np.full((1, 4), number, np.float32), 19)
        message = "Table three can't be exported: it holds numbers that are not finite"
    else:
        copy.top_mlp.dense_layers[0].bias.assign(np.full(8, number, np.float32))
        message = "bias.* of the model can't be exported: it holds numbers that are not finite"
    with pytest.raises(UserError, match=message):
        export_model(copy, SCHEMA, str(tmp_path / "export"), RUN)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: (path / "saved_model.pb").write_bytes(b"no protobuf"),
        lambda path: (path / "assets.extra" / "run.json").unlink(),
        lambda path: (path / "assets.extra" / "run.json").write_text("{}"),
        lambda path: [f.write_bytes(b"") for f in path.glob("variables/variables.data-*")],
        lambda path: [f.unlink() for f in path.glob("variables/variables.data-*")],
    ],
)
def test_a_damaged_saved_model_is_named(export_dir, tmp_path, damage):
    path = pathlib.Path(shutil.copytree(export_dir, tmp_path / "export"))
    damage(path)
    with pytest.raises(
        UserError, match="is not a SavedModel exported by tf_dlrm, or it is damaged"
    ):
        load_saved_model(str(path))


def test_loaded_logits_are_the_models(model, export_dir):
    logits, run = load_saved_model(str(export_dir))
    assert run["step"] == 7 and run["export"]["table_dtype"] == "float32"
    assert run["export"]["tf_dlrm"] == importlib.metadata.version("tf-dlrm")
    inputs = features(9)
    np.testing.assert_allclose(logits(inputs), model(inputs)[:, 0], atol=1e-5)


def test_logits_are_found_again_from_probabilities(tmp_path):
    """As far as single precision has them, and finite where it has rounded to 0 or 1."""
    module = tf.Module()
    module.serve = tf.function(
        lambda dense: {"probability": tf.sigmoid(dense[:, 0])},
        input_signature=[tf.TensorSpec([None, 1], tf.float32, "dense")],
    )
    tf.saved_model.save(module, str(tmp_path), signatures=module.serve)
    (tmp_path / "assets.extra").mkdir()
    (tmp_path / "assets.extra" / "run.json").write_text(json.dumps(RUN))
    logits, _ = load_saved_model(str(tmp_path))
    given = [[-200.0], [-60.0], [-3.0], [0.0], [5.0], [40.0]]
    found = logits({"dense": tf.constant(given)})
    assert found.dtype == tf.float64
    # At the ends the logits of 1e-38 and of 1 - 2^-25.
    np.testing.assert_allclose(found, [-87.49823, -60, -3, 0, 5, 17.32868], rtol=1e-5, atol=1e-7)
