"""The three cross layers: forward and gradients against closed forms, config, save, sentences."""

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.keras_api import keras
from tf_dlrm.layers import Cross, LowRankCross, VectorCross

BATCH, WIDTH, RANK = 5, 6, 2
LAYERS = {"full": Cross, "vector": VectorCross, "low_rank": lambda **k: LowRankCross(RANK, **k)}


def draw(seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(BATCH, WIDTH)).astype("f") for _ in range(3)]


def closed_form(name, weights, x0, x, g):
    """Returns the output, and the gradients of sum(g * output) by the weights, x0 and x."""
    ones = np.ones((1, WIDTH), "f")
    if name == "full":
        kernel, bias = weights
        projected = x @ kernel
        by_kernels = [x.T @ (g * x0)]
    elif name == "vector":
        # x0 (x . w) is x0 * (W x) with W = 1 w^T; its b is outside of the product.
        kernel, bias = weights
        projected = x @ kernel @ ones
        by_kernels = [x.T @ np.sum(g * x0, 1, keepdims=True)]
        kernel = kernel @ ones
    else:
        v, u, bias = weights
        kernel = v @ u
        projected = x @ kernel
        by_kernels = [x.T @ (g * x0) @ u.T, (x @ v).T @ (g * x0)]
    by_x = (g * x0) @ kernel.T + g
    if name == "vector":
        return x0 * projected + bias + x, [*by_kernels, g.sum(0), g * projected, by_x]
    output = x0 * (projected + bias) + x
    return output, [*by_kernels, (g * x0).sum(0), g * (projected + bias), by_x]


@pytest.mark.parametrize("name", LAYERS)
def test_equals_the_closed_form_forward_and_backward(name):
    x0, x, g = draw()
    layer = LAYERS[name](seed=1)
    layer(x0, x)
    layer.bias.assign(np.linspace(-1, 1, WIDTH))
    inputs = [tf.constant(x0), tf.constant(x)]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        output = layer(*inputs)
        loss = tf.reduce_sum(g * output)
    weights = [*layer.trainable_weights]
    assert [w.name.split("/")[-1].split(":")[0] for w in weights] == (
        ["kernel_v", "kernel_u", "bias"] if name == "low_rank" else ["kernel", "bias"]
    )
    gradients = tape.gradient(loss, [*weights, *inputs])
    expected, by = closed_form(name, [w.numpy() for w in weights], x0, x, g)
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(gradients, by, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_two_layers_are_a_polynomial_of_degree_three():
    layer = VectorCross(seed=0)
    x = tf.constant([[2.0, -1.0]])
    layer(x, x)
    layer.kernel.assign([[0.5], [3.0]])
    # x1 = x (1 + x.w) = [2, -1] (1 - 2); x2 = x (x1.w) + x1 = [2, -1] 2 - [2, -1].
    np.testing.assert_allclose(layer(x, layer(x, x)), [[2.0, -1.0]])


@pytest.mark.parametrize(
    ("name", "deviation"),
    [
        ("full", (2 / 400) ** 0.5),
        ("vector", (2 / 201) ** 0.5),
        ("low_rank", (2 / 202) ** 0.5),
    ],
)
def test_first_weights(name, deviation):
    layer = LAYERS[name](seed=3)
    layer.build((None, 200))
    for kernel in layer.trainable_weights[:-1]:
        np.testing.assert_allclose(kernel.numpy().std(), deviation, rtol=0.15)
    assert not layer.bias.numpy().any()
    kernels = {k.numpy().ravel()[0] for k in layer.trainable_weights[:-1]}
    assert len(kernels) == len(layer.trainable_weights) - 1
    again = LAYERS[name](seed=3)
    again.build((None, 200))
    np.testing.assert_array_equal(again.trainable_weights[0], layer.trainable_weights[0])


@pytest.mark.parametrize("name", LAYERS)
def test_functional_model_config_and_save(name, tmp_path):
    x0, x, _ = draw()
    inputs = [keras.Input((WIDTH,)), keras.Input((WIDTH,))]
    layer = LAYERS[name](seed=5, name="cross")
    model = keras.Model(inputs, layer(*inputs))
    assert tuple(model.output.shape) == (None, WIDTH)
    layer.bias.assign(np.ones(WIDTH))
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert type(loaded.get_layer("cross")) is type(layer)
    assert loaded.get_layer("cross").get_config() == layer.get_config()
    np.testing.assert_array_equal(model([x0, x]), loaded([x0, x]))
    assert layer.compute_output_shape((None, WIDTH)) == (None, WIDTH)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("shapes", [((2, 3), (2, 4)), ((2, 3, 1), (2, 3, 1))])
def test_bad_inputs_are_sentences(name, shapes):
    with pytest.raises(ValueError, match=r"must have one shape, \[batch, width\], but have \(2, 3"):
        LAYERS[name]()(*(tf.ones(shape) for shape in shapes))


@pytest.mark.parametrize("rank", [0, 2.0, True])
def test_bad_rank(rank):
    with pytest.raises(ValueError, match="rank must be a whole number of at least 1, but is"):
        LowRankCross(rank)
