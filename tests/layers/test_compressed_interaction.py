"""CompressedInteraction against the sums of the paper, forward and backward."""

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.keras_api import keras
from tf_dlrm.layers import CompressedInteraction

BATCH, FIELDS, DIM, UNITS = 3, 4, 2, (5, 3)


def draw():
    rng = np.random.default_rng(0)
    shapes = (BATCH, FIELDS, DIM), (BATCH, sum(UNITS))
    return [rng.normal(size=shape).astype("f") for shape in shapes]


def kernels_of(layer):
    """Returns W^1 and W^2, each [units, vectors of the layer before, fields]."""
    before = (FIELDS, *UNITS)
    return [
        np.transpose(
            getattr(layer, f"kernel_{k}").numpy().reshape(before[k], FIELDS, units)
        ).transpose(0, 2, 1)
        for k, units in enumerate(UNITS)
    ]


def test_equals_the_sums_of_the_paper():
    x0, _ = draw()
    layer = CompressedInteraction(UNITS, seed=0)
    got = layer(x0)
    before, expected = x0, []
    for weights in kernels_of(layer):
        after = np.zeros((BATCH, len(weights), DIM))
        for h, i, j in np.ndindex(*weights.shape):
            after[:, h] += weights[h, i, j] * before[:, i] * x0[:, j]
        expected.append(after.sum(2))
        before = after
    np.testing.assert_allclose(got, np.hstack(expected), rtol=1e-4, atol=1e-5)
    assert layer.compute_output_shape((None, FIELDS, DIM)) == (None, sum(UNITS))


def test_gradients_equal_the_closed_form():
    x0, g = draw()
    layer = CompressedInteraction(UNITS, seed=0)
    inputs = tf.constant(x0)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        loss = tf.reduce_sum(g * layer(inputs))
    by_first, by_second, by_x0 = tape.gradient(loss, [*layer.trainable_weights, inputs])
    one, two = (weights.astype("d") for weights in kernels_of(layer))
    x1 = np.einsum("hij,bid,bjd->bhd", one, x0, x0)
    # What flows back to X^2 and X^1: their sums over dim, and through X^2 once more to X^1.
    g2 = np.repeat(g[:, UNITS[0] :, None], DIM, 2)
    g1 = g[:, : UNITS[0], None] + np.einsum("hij,bhd,bjd->bid", two, g2, x0)
    np.testing.assert_allclose(
        by_second, np.einsum("bhd,bid,bjd->ijh", g2, x1, x0).reshape(-1, 3), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        by_first, np.einsum("bhd,bid,bjd->ijh", g1, x0, x0).reshape(-1, 5), rtol=1e-4, atol=1e-5
    )
    expected = np.einsum("hij,bhd,bid->bjd", two, g2, x1)
    expected += np.einsum("hij,bhd,bid->bjd", one, g1, x0)
    expected += np.einsum("hij,bhd,bjd->bid", one, g1, x0)
    np.testing.assert_allclose(by_x0, expected, rtol=1e-4, atol=1e-5)


def test_first_weights_and_seed():
    layers = [CompressedInteraction((50, 40), seed=s) for s in (5, 5, 6)]
    for layer in layers:
        layer.build((None, 20, 4))
    first, second = layers[0].trainable_weights
    assert tuple(first.shape) == (400, 50) and tuple(second.shape) == (1000, 40)
    np.testing.assert_allclose(first.numpy().std(), (2 / 450) ** 0.5, rtol=0.03)
    np.testing.assert_allclose(second.numpy().std(), (2 / 1040) ** 0.5, rtol=0.03)
    np.testing.assert_array_equal(first, layers[1].kernel_0)
    assert not np.array_equal(first, layers[2].kernel_0)
    draws = [kernel.numpy().ravel()[:10_000] for kernel in (first, second)]
    assert abs(np.corrcoef(draws)[0, 1]) < 0.1  # not one draw, scaled


def test_functional_model_config_and_save(tmp_path):
    inputs = keras.Input((FIELDS, DIM))
    layer = CompressedInteraction(UNITS, seed=2, name="cin")
    model = keras.Model(inputs, layer(inputs))
    assert tuple(model.output.shape) == (None, sum(UNITS))
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.get_layer("cin").get_config() == layer.get_config()
    np.testing.assert_array_equal(model(draw()[0]), loaded(draw()[0]))
    path = tf.train.Checkpoint(layer=layer).write(str(tmp_path / "c"))
    other = CompressedInteraction(UNITS, seed=3)
    other.build((None, FIELDS, DIM))
    tf.train.Checkpoint(layer=other).read(path).assert_existing_objects_matched()
    np.testing.assert_array_equal(other(draw()[0]), layer(draw()[0]))


@pytest.mark.parametrize("units", [[], [0], [2.5], [4, -1]])
def test_bad_units(units):
    with pytest.raises(ValueError, match="units must be one or more whole numbers"):
        CompressedInteraction(units)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4, 5)])
def test_bad_inputs_are_a_sentence(shape):
    with pytest.raises(ValueError, match=r"must have the shape \[batch, fields, dim\]"):
        CompressedInteraction([2])(tf.ones(shape))
