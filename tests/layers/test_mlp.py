"""MLP: values, the paper's first weights, config, save."""

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.keras_api import keras
from tf_dlrm.kernels.use import kernels_allowed
from tf_dlrm.layers import MLP


def test_equals_numpy():
    layer = MLP([4, 3, 2], final_activation="sigmoid", seed=0)
    x = np.random.default_rng(0).normal(size=(5, 6)).astype("f")
    got = layer(tf.constant(x))
    h = x
    for k in range(3):
        dense = layer.dense_layers[k]
        h = h @ dense.kernel.numpy() + dense.bias.numpy()
        h = 1 / (1 + np.exp(-h)) if k == 2 else np.maximum(h, 0)
    np.testing.assert_allclose(got, h, rtol=1e-5, atol=1e-6)
    assert layer.compute_output_shape((None, 6)) == (None, 2)
    assert len(layer.trainable_weights) == 6


def test_gradients_equal_the_closed_form():
    layer = MLP([4, 2], seed=0)
    rng = np.random.default_rng(0)
    x, g = rng.normal(size=(5, 6)).astype("f"), rng.normal(size=(5, 2)).astype("f")
    inputs = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        loss = tf.reduce_sum(g * layer(inputs))
    first, second = layer.dense_layers
    weights = [first.kernel, first.bias, second.kernel, second.bias]
    found = tape.gradient(loss, [*weights, inputs])
    w, b, v, _ = (weight.numpy() for weight in weights)
    hidden = np.maximum(x @ w + b, 0)
    back = (g @ v.T) * (hidden > 0)
    assert 0 < (hidden > 0).mean() < 1
    expected = [x.T @ back, back.sum(0), hidden.T @ g, g.sum(0), back @ w.T]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_first_weights_are_the_papers():
    layer = MLP([400, 300], seed=1)
    layer.build((None, 500))
    first, second = layer.dense_layers
    np.testing.assert_allclose(first.kernel.numpy().std(), (2 / 900) ** 0.5, rtol=0.02)
    np.testing.assert_allclose(second.kernel.numpy().std(), (2 / 700) ** 0.5, rtol=0.02)
    np.testing.assert_allclose(first.bias.numpy().std(), 400**-0.5, rtol=0.15)
    np.testing.assert_allclose(second.bias.numpy().std(), 300**-0.5, rtol=0.15)
    # No two draws are one, scaled: of kernels and kernels, and of kernels and biases.
    draws = [
        w.numpy().ravel()[:300] for w in (first.kernel, first.bias, second.kernel, second.bias)
    ]
    assert np.abs(np.corrcoef(draws) - np.eye(4)).max() < 0.3
    # Not truncated: 200,000 normal numbers reach beyond 3.5 deviations.
    assert np.abs(first.kernel.numpy()).max() > 3.5 * (2 / 900) ** 0.5


def test_seed():
    x = tf.ones((1, 4))
    equal = [MLP([3, 2], seed=s)(x).numpy() for s in (5, 5, 6)]
    np.testing.assert_array_equal(equal[0], equal[1])
    assert not np.array_equal(equal[0], equal[2])


def test_dropout_only_while_training():
    layer = MLP([1000, 1], dropout=0.5, seed=0)
    x = tf.ones((1, 4))
    plain = layer(x, training=False).numpy()
    np.testing.assert_array_equal(plain, layer(x, training=False))
    assert not np.allclose(plain, layer(x, training=True))


def test_dropout_follows_every_layer_but_the_last_with_masks_of_its_own():
    layer = MLP([6, 6, 6], activation=None, dropout=0.75, seed=0)
    layer.build((None, 6))
    # Every layer repeats its input, so what is left shows the masks: their product, and scale.
    for dense in layer.dense_layers:
        dense.kernel.assign(np.eye(6))
        dense.bias.assign(np.zeros(6))
    outputs = layer(tf.ones((1000, 6)), training=True).numpy()
    assert set(np.unique(outputs)) == {0, 16}
    assert abs((outputs > 0).mean() - 1 / 16) < 0.02


def test_config_and_save(tmp_path):
    inputs = keras.Input((6,))
    layer = MLP([4, 2], activation="tanh", final_activation="relu", dropout=0.25, seed=3, name="m")
    model = keras.Model(inputs, layer(inputs))
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.get_layer("m").get_config() == layer.get_config()
    x = np.random.default_rng(0).normal(size=(5, 6)).astype("f")
    np.testing.assert_array_equal(model(x), loaded(x))
    copy = MLP.from_config(layer.get_config())
    assert copy.units == (4, 2) and copy.dropout == 0.25


def test_checkpoint(tmp_path):
    first, second = MLP([3, 2], seed=0), MLP([3, 2], seed=1)
    first.build((None, 4))
    second.build((None, 4))
    path = tf.train.Checkpoint(mlp=first).save(str(tmp_path / "c"))
    tf.train.Checkpoint(mlp=second).restore(path).assert_existing_objects_matched()
    np.testing.assert_array_equal(first(tf.ones((1, 4))), second(tf.ones((1, 4))))


@pytest.mark.parametrize("units", [[], [0], [2.5], [4, -1]])
def test_bad_units(units):
    with pytest.raises(ValueError, match="units must be one or more whole numbers"):
        MLP(units)


def test_bad_dropout():
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\), but is 1.0"):
        MLP([1], dropout=1.0)


@pytest.mark.parametrize("rows", [0, 1, 63, 64, 65, 300])
def test_fused_layers_learn_what_plain_ones_do(rows):
    layer = MLP([5, 32, 1, 7], final_activation="relu", seed=1)
    rng = np.random.default_rng(rows)
    inputs = tf.constant(rng.normal(size=(rows, 9)), tf.float32)
    upstream = tf.constant(rng.normal(size=(rows, 7)), tf.float32)
    layer(inputs)

    def run(fused):
        @tf.function(autograph=False)
        def gradients():
            with tf.GradientTape() as tape, kernels_allowed(fused):
                tape.watch(inputs)
                outputs = layer(inputs, training=True)
            return outputs, *tape.gradient(outputs, [inputs, *layer.trainable_variables], upstream)

        operations = {op.type for op in gradients.get_concrete_function().graph.get_operations()}
        assert ("TfDlrmUnbias" in operations) == fused
        return [value.numpy() for value in gradients()]

    found, again, wanted = run(True), run(True), run(False)
    for own, same, plain in zip(found, again, wanted, strict=True):
        np.testing.assert_array_equal(own, same)
        np.testing.assert_allclose(own, plain, rtol=1e-5, atol=1e-5)
    assert any((own != 0).any() for own in found[1:]) == (rows > 0)
