"""ProjectedInteraction: values, gradients, config, save, sentences."""

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.keras_api import keras
from tf_dlrm.layers import ProjectedInteraction


def vectors(count=3, batch=5, width=4):
    rng = np.random.default_rng(0)
    return [tf.constant(rng.normal(size=(batch, width)), tf.float32) for _ in range(count)]


def test_equals_numpy_forward_and_backward():
    layer = ProjectedInteraction([8], [12], seed=1)
    inputs = vectors()
    upstream = np.random.default_rng(1).normal(size=(5, 6)).astype("f")
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        output = layer(inputs)
        loss = tf.reduce_sum(upstream * output)
    kernels = [layer.first.dense_0.kernel, layer.second.dense_0.kernel]
    by_inputs, by_kernels = tape.gradient(loss, [inputs, kernels])
    flat = np.concatenate(inputs, 1)
    weights = [(mlp.dense_0.kernel.numpy(), mlp.dense_0.bias.numpy())
               for mlp in (layer.first, layer.second)]  # fmt: skip
    a, b = ((flat @ kernel + bias).reshape(5, -1, 4) for kernel, bias in weights)
    np.testing.assert_allclose(output, np.einsum("nid,njd->nij", a, b).reshape(5, 6), rtol=1e-4)
    g = upstream.reshape(5, 2, 3)
    by_a = np.einsum("nij,njd->nid", g, b).reshape(5, 8)
    by_b = np.einsum("nij,nid->njd", g, a).reshape(5, 12)
    np.testing.assert_allclose(by_kernels[0], flat.T @ by_a, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(by_kernels[1], flat.T @ by_b, rtol=1e-3, atol=1e-4)
    by_flat = by_a @ weights[0][0].T + by_b @ weights[1][0].T
    np.testing.assert_allclose(np.concatenate(by_inputs, 1), by_flat, rtol=1e-3, atol=1e-4)


def test_functional_model_config_and_save(tmp_path):
    inputs = [keras.Input((4,)) for _ in range(3)]
    layer = ProjectedInteraction([5, 8], [12], seed=1, name="interaction")
    model = keras.Model(inputs, layer(inputs))
    assert tuple(model.output.shape) == (None, 6)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.get_layer("interaction").get_config() == layer.get_config()
    np.testing.assert_array_equal(model(vectors()), loaded(vectors()))


def test_bad_inputs_are_sentences():
    with pytest.raises(ValueError, match="second of ProjectedInteraction must end in a multiple"):
        ProjectedInteraction([8], [10])(vectors())
    with pytest.raises(ValueError, match=r"must all have one shape, \[batch, width\], but have"):
        ProjectedInteraction([8], [12])([tf.ones((2, 4)), tf.ones((2, 3))])
    with pytest.raises(ValueError, match="units must be one or more whole numbers"):
        ProjectedInteraction([], [12])
