"""What a model is, in files, copies and exports: dtype, frozen layers, tables, inputs."""

import copy

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.keras_api import keras, uses_legacy_keras
from tf_dlrm.models import DLRM, DLRMConfig, Ensemble


def _config(parts, seed=0):
    return DLRMConfig(2, parts.features(4, 4), (8, 4), (8, 1), seed=seed)


def _frozen(model):
    members = model.members if isinstance(model, Ensemble) else [model]
    for member in members:
        member.embeddings.trainable = False
        member.top_mlp.dense_0.trainable = False
    return model


def _by_keras_file(model, folder):
    model.save(str(folder / "m.keras"))
    return keras.models.load_model(str(folder / "m.keras"))


def _by_copy(model, folder):
    return copy.deepcopy(model)


def _by_config(model, folder):
    other = type(model).from_config(model.get_config())
    other.set_weights(model.get_weights())
    return other


@pytest.mark.parametrize("road", [_by_keras_file, _by_copy, _by_config], ids=lambda r: r.__name__)
@pytest.mark.parametrize("size", [None, 2])
def test_a_model_keeps_its_dtype_and_its_frozen_layers(size, road, parts, tmp_path):
    if size is None:
        model = DLRM(_config(parts), dtype="mixed_bfloat16")
    else:
        model = Ensemble(_config(parts), size, dtype="mixed_bfloat16")
    parts.randomized(model)
    _frozen(model)
    other = road(model, tmp_path)
    first = other if size is None else other.member_1
    assert other.compute_dtype == first.top_mlp.dense_1.compute_dtype == "bfloat16"
    assert not first.embeddings.trainable and not first.top_mlp.dense_0.trainable
    assert first.top_mlp.dense_1.trainable and first.bottom_mlp.dense_0.trainable
    shapes = [tuple(w.shape) for w in other.trainable_variables]
    # Of bottom_mlp 2 -> 8 -> 4, and of the last layer of top_mlp, 8 -> 1.
    assert sorted(shapes) == sorted([(2, 8), (8,), (8, 4), (4,), (8, 1), (1,)] * (size or 1))
    inputs = parts.inputs(2, 2, rows=5)
    np.testing.assert_array_equal(other(inputs), model(inputs))


def test_a_frozen_model_stays_frozen(parts):
    model = DLRM(_config(parts))
    model.trainable = False
    other = DLRM.from_config(model.get_config())
    assert not other.trainable and not other.trainable_variables
    assert not other.embeddings.trainable and not other.top_mlp.dense_1.trainable


def _called(model, inputs):
    model(inputs)


def _fitted(model, inputs):
    model.compile(keras.optimizers.SGD(0.5), keras.losses.BinaryCrossentropy(from_logits=True))
    before = model.predict(inputs, verbose=0)
    labels = np.array([0, 1, 1, 0, 1], "f")[:, None]
    model.fit(inputs, labels, batch_size=3, verbose=0)
    assert np.abs(model.predict(inputs, verbose=0) - before).min() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("use", [_called, _fitted], ids=lambda use: use.__name__[1:])
def test_an_export_after_a_use(use, parts, tmp_path):
    model = parts.randomized(DLRM(_config(parts)))
    arrays = parts.inputs(2, 2, rows=5)
    use(model, arrays)
    expected = model.predict(arrays, verbose=0)
    model.export(str(tmp_path / "export"))
    loaded = tf.saved_model.load(str(tmp_path / "export"))
    inputs = {name: tf.constant(value) for name, value in arrays.items()}
    np.testing.assert_allclose(loaded.serve(inputs), expected, rtol=1e-6, atol=1e-6)
    few = {name: value[:2] for name, value in inputs.items()}
    np.testing.assert_allclose(loaded.serve(few), expected[:2], rtol=1e-6, atol=1e-6)
    _, specs = loaded.signatures["serving_default"].structured_input_signature
    found = {name: (spec.shape.as_list(), spec.dtype) for name, spec in specs.items()}
    ids = ([None], tf.int64)
    assert found == {"dense": ([None, 2], tf.float32), "C0": ids, "C1": ids}


@pytest.mark.slow
def test_saved_model_save_has_the_inputs_of_the_call(parts, tmp_path):
    model = parts.randomized(DLRM(_config(parts)))
    inputs = {name: tf.constant(value) for name, value in parts.inputs(2, 2, rows=5).items()}
    expected = model(inputs, training=False).numpy()
    tf.saved_model.save(model, str(tmp_path))
    signature = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
    (logits,) = signature(**inputs).values()
    np.testing.assert_allclose(logits, expected, rtol=1e-6, atol=1e-6)


def test_an_export_before_a_call_is_a_sentence(parts, tmp_path):
    words = "never called" if uses_legacy_keras() else "call it on a batch before it is exported"
    with pytest.raises(ValueError, match=words):
        DLRM(_config(parts)).export(str(tmp_path))


@pytest.mark.skipif(uses_legacy_keras(), reason="Keras 2 has no stateless_call.")
def test_stateless_calls_are_refused(parts):
    model = DLRM(_config(parts))
    values = [v.numpy() for v in model.trainable_variables]
    others = [v.numpy() for v in model.non_trainable_variables]
    with pytest.raises(ValueError, match="stateless_call cannot give other tables"):
        model.stateless_call(values, others, parts.inputs(2, 2, rows=5))


@pytest.mark.skipif(not uses_legacy_keras(), reason="Keras 3 writes weights as .weights.h5 only.")
@pytest.mark.parametrize("size", [None, 2])
def test_old_files_of_weights(size, parts, tmp_path):
    def make(seed):
        config = _config(parts, seed)
        return DLRM(config) if size is None else Ensemble(config, size)

    model, other = parts.randomized(make(0)), make(1)
    model.save_weights(str(tmp_path / "weights.h5"))
    other.load_weights(str(tmp_path / "weights.h5"))
    inputs = parts.inputs(2, 2, rows=5)
    np.testing.assert_array_equal(other(inputs), model(inputs))
