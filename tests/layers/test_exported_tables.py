"""SavedModels of Keras models with tables: equal answers, plain operations."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tf_dlrm.embeddings import Adagrad, FeatureConfig, TableConfig
from tf_dlrm.keras_api import keras, uses_legacy_keras
from tf_dlrm.layers import EmbeddingCollection

_TABLE = TableConfig("items", 5, 3, optimizer=Adagrad(0.1), combiner="mean")
_ROWS = 10.0 + np.arange(15, dtype="f").reshape(5, 3)
_IDS = tf.constant([[4, 1], [0, 0], [2, 3], [1, 1]], tf.int64)
_VECTORS = (_ROWS[_IDS[:, 0]] + _ROWS[_IDS[:, 1]]) / 2


@pytest.fixture(scope="module")
def model():
    """A model whose outputs are vectors of known rows, after a step that kernels may make."""
    inputs = {"seen": keras.Input((2,), dtype="int64", name="seen")}
    vectors = EmbeddingCollection([FeatureConfig("seen", _TABLE)], name="tables")(inputs)
    model = keras.Model(inputs, vectors["seen"])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model({"seen": _IDS}, training=True))
    tape.gradient(loss, model.trainable_variables)
    model.get_layer("tables").tables["items"].assign_rows(_ROWS)
    return model


@pytest.mark.slow
def test_an_export_after_fit(tmp_path):
    inputs = {"seen": keras.Input((2,), dtype="int64", name="seen")}
    layer = EmbeddingCollection([FeatureConfig("seen", _TABLE)], name="tables")
    model = keras.Model(inputs, layer(inputs)["seen"])
    layer.tables["items"].assign_rows(_ROWS)
    model.compile("sgd", "mse")
    model.fit({"seen": _IDS}, np.zeros((4, 3), "f"), batch_size=4, verbose=0)
    model.export(str(tmp_path))
    _check_plain(tmp_path)
    # Adagrad's first step is its rate, whatever the gradient.
    expected = _VECTORS - 0.1
    np.testing.assert_allclose(model.predict({"seen": _IDS}, verbose=0), expected, rtol=1e-3)
    loaded = tf.saved_model.load(str(tmp_path))
    np.testing.assert_allclose(_serve(loaded), model.predict({"seen": _IDS}), rtol=1e-6, atol=1e-6)


def _operations(folder):
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((folder / "saved_model.pb").read_bytes())
    graph = saved.meta_graphs[0].graph_def
    nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
    return {node.op for node in nodes}


def _check_plain(folder):
    operations = _operations(folder)
    assert "ResourceGather" in operations
    assert not [name for name in operations if "Dlrm" in name or "Update" in name]


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    model.export(str(folder))
    return folder


def _serve(loaded):
    return loaded.serve(_IDS if uses_legacy_keras() else {"seen": _IDS})


def test_export(exported):
    _check_plain(exported)
    np.testing.assert_allclose(_serve(tf.saved_model.load(str(exported))), _VECTORS, rtol=1e-6)


def test_tables_of_an_export_are_not_trained_in_silence(exported):
    loaded = tf.saved_model.load(str(exported))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(_serve(loaded))
    with pytest.raises(tf.errors.InvalidArgumentError, match="cannot be trained in a SavedModel"):
        tape.gradient(loss, loaded.trainable_variables)


def test_saved_model_save(model, tmp_path):
    tf.saved_model.save(model, str(tmp_path))
    _check_plain(tmp_path)
    signature = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
    (name,) = signature.structured_input_signature[1]
    (outputs,) = signature(**{name: _IDS}).values()
    np.testing.assert_allclose(outputs, _VECTORS, rtol=1e-6)


@pytest.mark.skipif(not uses_legacy_keras(), reason="Keras 3 reads no SavedModels into models.")
def test_a_saved_model_of_keras_2_goes_on_with_slots(model, tmp_path):
    tables = model.get_layer("tables").tables
    tables["items"].assign_rows(_ROWS + 0.5, slot="accumulator")
    model.save(str(tmp_path / "m"), save_format="tf")
    _check_plain(tmp_path / "m")
    loaded = keras.models.load_model(str(tmp_path / "m"))
    np.testing.assert_allclose(loaded({"seen": _IDS}), _VECTORS, rtol=1e-6)
    found = loaded.get_layer("tables").tables
    np.testing.assert_array_equal(found["items"].read_rows(slot="accumulator"), _ROWS + 0.5)
    assert int(found.updates) == int(tables.updates) == 1
