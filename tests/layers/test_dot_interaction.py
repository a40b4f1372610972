"""DotInteraction against loops, its gradient, and its config."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.keras_api import keras
from tf_dlrm.kernels import pairs
from tf_dlrm.layers import DotInteraction


@pytest.mark.parametrize("self_interaction", [False, True])
@pytest.mark.parametrize("batch", [1, 5])
def test_equals_loops(self_interaction, batch):
    rng = np.random.default_rng(0)
    vectors = [rng.normal(size=(batch, 3)).astype("f") for _ in range(4)]
    expected = [
        [vectors[i][b] @ vectors[j][b] for i in range(4) for j in range(i + int(self_interaction))]
        for b in range(batch)
    ]
    layer = DotInteraction(self_interaction)
    got = layer([tf.constant(v) for v in vectors])
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    assert layer.compute_output_shape([(None, 3)] * 4) == (None, len(expected[0]))


@pytest.mark.parametrize("self_interaction", [False, True])
def test_gradient_equals_that_of_loops(self_interaction):
    rng = np.random.default_rng(1)
    vectors = [tf.constant(rng.normal(size=(3, 2)).astype("f")) for _ in range(4)]
    pairs = 10 if self_interaction else 6
    weights = tf.constant(rng.normal(size=(3, pairs)).astype("f"))

    def loops(vectors):
        return tf.stack(
            [
                tf.reduce_sum(vectors[i] * vectors[j], 1)
                for i in range(4)
                for j in range(i + int(self_interaction))
            ],
            1,
        )

    results = []
    for function in (DotInteraction(self_interaction), loops):
        with tf.GradientTape() as tape:
            tape.watch(vectors)
            loss = tf.reduce_sum(weights * function(vectors))
        results.append(tape.gradient(loss, vectors))
    for ours, expected in zip(*results, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


def test_functional_model_config_and_save(tmp_path):
    inputs = [keras.Input((3,)) for _ in range(3)]
    model = keras.Model(inputs, DotInteraction(True, name="pairs")(inputs))
    assert tuple(model.output.shape) == (None, 6)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.get_layer("pairs").self_interaction is True
    data = [np.random.default_rng(k).normal(size=(2, 3)).astype("f") for k in range(3)]
    np.testing.assert_array_equal(model(data), loaded(data))


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([tf.ones((2, 3))], "at least 2 inputs, but got 1"),
        ([tf.ones((2, 3)), tf.ones((2, 4))], r"must all have the shape \[batch, dim\]"),
        ([tf.ones((2, 3, 1)), tf.ones((2, 3, 1))], r"must all have the shape \[batch, dim\]"),
        (tf.ones((2, 3)), "must be a list"),
    ],
)
def test_bad_inputs_are_sentences(inputs, words):
    with pytest.raises(ValueError, match=words):
        DotInteraction()(inputs)


# Number of vectors, and their size.
SHAPES = [(2, 1), (3, 5), (9, 64), (27, 16), (40, 20)]
# Every pair of a shape, a batch, and with or without the products of vectors with themselves.
QUICK = {
    (shape, batch, itself)
    for k, shape in enumerate(SHAPES)
    for batch, itself in [(1, k % 2 == 0), (65, k % 2 == 1)]
}


def _kernel_cases():
    return [
        case if case in QUICK else pytest.param(*case, marks=pytest.mark.exhaustive)
        for case in itertools.product(SHAPES, (1, 65), (False, True))
    ]


@pytest.mark.parametrize(
    "call",
    [
        lambda layer, vectors, training: layer(vectors, training=training),
        lambda layer, vectors, training: layer.after_first(vectors, training),
    ],
    ids=["products", "after_first"],
)
@pytest.mark.parametrize(("shape", "batch", "self_interaction"), _kernel_cases())
def test_kernels_compute_what_tensorflow_does(shape, batch, self_interaction, call, monkeypatch):
    count, dim = shape
    monkeypatch.setenv("TF_DLRM_KERNELS", "native")
    rng = np.random.default_rng(2)
    # Products of about 1: the sine of larger ones makes much of their last digits.
    drawn = rng.normal(size=(count, batch, dim)) * dim**-0.25
    vectors = [tf.constant(vector, tf.float32) for vector in drawn]
    layer = DotInteraction(self_interaction)

    def products_and_gradients(training):
        with tf.GradientTape() as tape:
            tape.watch(vectors)
            products = call(layer, vectors, training)
            loss = tf.reduce_sum(tf.sin(products))
        return [products, *tape.gradient(loss, vectors)]

    compiled = tf.function(products_and_gradients, autograph=False)
    for ours, expected in zip(compiled(True), products_and_gradients(False), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)
        assert ours.shape == expected.shape
    operations = compiled.get_concrete_function(True).graph.get_operations()
    assert {"TfDlrmProducts", "TfDlrmPull"} <= {op.type for op in operations}
    if count < 4:
        plain = compiled.get_concrete_function(False).graph.get_operations()
        assert not any(op.type.startswith("TfDlrm") for op in plain)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_the_first_vector_may_stand_before_the_products(policy, training, monkeypatch):
    monkeypatch.setenv("TF_DLRM_KERNELS", "native")
    first, second = tf.constant([[1.0, 2.0]]), tf.constant([[3.0, 5.0]])
    layer = DotInteraction(dtype=policy)
    if policy == "mixed_bfloat16":
        first = tf.cast(first, tf.bfloat16)
    with tf.GradientTape() as tape:
        tape.watch([first, second])
        found = layer.after_first([first, second], training)
        loss = tf.reduce_sum(tf.cast(found, tf.float32) * [[7.0, 11.0, 10.0]])
    assert found.dtype == first.dtype
    np.testing.assert_array_equal(tf.cast(found, tf.float32), [[1, 2, 13]])
    by_first, by_second = tape.gradient(loss, [first, second])
    np.testing.assert_array_equal(tf.cast(by_first, tf.float32), [[7 + 30, 11 + 50]])
    np.testing.assert_array_equal(tf.cast(by_second, tf.float32), [[10, 20]])


@pytest.mark.parametrize("graph", [False, True])
def test_a_tape_without_training_takes_the_kernels(graph, monkeypatch):
    monkeypatch.setenv("TF_DLRM_KERNELS", "native")
    rng = np.random.default_rng(4)
    vectors = [tf.constant(rng.normal(size=(3, 2)), tf.float32) for _ in range(3)]
    first, second, third = (v.numpy().astype("d") for v in vectors)
    layer, ran = DotInteraction(), []
    dot_products = pairs.dot_products
    monkeypatch.setattr(pairs, "dot_products", lambda *a: ran.append(1) or dot_products(*a))

    def step():
        with tf.GradientTape() as tape:
            tape.watch(vectors[1:])
            loss = tf.reduce_sum(layer(vectors) * [[1.0, 10.0, 100.0]])
        return [loss, *tape.gradient(loss, vectors[1:])]

    loss, of_second, of_third = (tf.function(step, autograph=False) if graph else step)()
    assert ran
    products = (second * first).sum(), (third * first).sum(), (third * second).sum()
    np.testing.assert_allclose(loss, np.dot([1, 10, 100], products), rtol=1e-4)
    np.testing.assert_allclose(of_second, first + 100 * third, rtol=1e-4)
    np.testing.assert_allclose(of_third, 10 * first + 100 * second, rtol=1e-4)
    ran.clear()
    layer(vectors)  # no tape
    with tf.GradientTape():
        layer(vectors)  # one that watches nothing of it
    assert not ran


def test_gradients_of_gradients_without_training():
    first, second = tf.constant([[1.0, 2.0]]), tf.constant([[3.0, 5.0]])
    with tf.GradientTape() as outer:
        outer.watch(first)
        with tf.GradientTape() as inner:
            inner.watch(first)
            loss = tf.reduce_sum(DotInteraction(True)([first, second]) ** 2)
        slope = inner.gradient(loss, first)
    # Of (a.a)^2 + (b.a)^2 + (b.b)^2 by a: 4 (a.a) a + 2 (b.a) b, with a.a = 5 and b.a = 13.
    np.testing.assert_allclose(slope, [[4 * 5 + 26 * 3, 40 + 26 * 5]], rtol=1e-6)
    # Of that one's sum: 4 (a.a) + 8 a (sum of a) + 2 b (sum of b).
    np.testing.assert_allclose(
        outer.gradient(slope, first), [[20 + 8 * 3 + 2 * 3 * 8, 20 + 48 + 80]], rtol=1e-6
    )
