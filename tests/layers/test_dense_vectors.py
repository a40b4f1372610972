"""DenseVectors: values, gradients, config, save, sentences."""

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.keras_api import keras
from tf_dlrm.layers import DenseVectors


def test_equals_numpy_forward_and_backward():
    rng = np.random.default_rng(0)
    x, g = rng.normal(size=(5, 3)).astype("f"), rng.normal(size=(5, 3, 4)).astype("f")
    layer = DenseVectors(4, seed=1)
    inputs = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        output = layer(inputs)
        loss = tf.reduce_sum(g * output)
    by_kernel, by_x = tape.gradient(loss, [layer.kernel, inputs])
    kernel = layer.kernel.numpy()
    np.testing.assert_allclose(output, np.einsum("bi,id->bid", x, kernel), rtol=1e-6)
    np.testing.assert_allclose(by_kernel, np.einsum("bid,bi->id", g, x), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(by_x, np.einsum("bid,id->bi", g, kernel), rtol=1e-4, atol=1e-6)


def test_first_weights():
    layer = DenseVectors(50, seed=1)
    layer.build((None, 150))
    np.testing.assert_allclose(layer.kernel.numpy().std(), 0.1, rtol=0.05)


def test_functional_model_config_and_save(tmp_path):
    inputs = keras.Input((3,))
    layer = DenseVectors(4, seed=1, name="vectors")
    model = keras.Model(inputs, layer(inputs))
    assert tuple(model.output.shape) == (None, 3, 4)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.get_layer("vectors").get_config() == layer.get_config()
    x = np.random.default_rng(0).normal(size=(5, 3)).astype("f")
    np.testing.assert_array_equal(model(x), loaded(x))


def test_bad_arguments_are_sentences():
    with pytest.raises(ValueError, match="dim must be a whole number of at least 1, but is 0"):
        DenseVectors(0)
    with pytest.raises(ValueError, match=r"must have the shape \[batch, features\], but have"):
        DenseVectors(2)(tf.ones((2, 3, 4)))
