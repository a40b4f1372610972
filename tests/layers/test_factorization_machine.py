"""FactorizationMachine: linear time equals the quadratic sum, forward and backward."""

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.keras_api import keras
from tf_dlrm.layers import FactorizationMachine


@pytest.mark.parametrize("batch", [1, 5])
def test_equals_the_sum_over_all_pairs(batch):
    vectors = np.random.default_rng(0).normal(size=(batch, 7, 3)).astype("f")
    expected = [[sum(rows[i] @ rows[j] for i in range(7) for j in range(i))] for rows in vectors]
    np.testing.assert_allclose(FactorizationMachine()(vectors), expected, rtol=1e-4, atol=1e-5)


def test_the_gradient_of_a_vector_is_the_sum_of_the_others():
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(4, 6, 3)).astype("f")
    g = rng.normal(size=(4, 1)).astype("f")
    inputs = tf.constant(vectors)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        loss = tf.reduce_sum(g * FactorizationMachine()(inputs))
    others = np.sum(vectors, 1, keepdims=True) - vectors
    np.testing.assert_allclose(
        tape.gradient(loss, inputs), g[:, :, None] * others, rtol=1e-4, atol=1e-5
    )


def test_one_vector_has_no_pair():
    np.testing.assert_allclose(FactorizationMachine()(tf.ones((2, 1, 4))), [[0.0], [0.0]])


def test_time_is_linear_in_the_fields():
    def operations(fields):
        function = tf.function(lambda v: FactorizationMachine()(v), autograph=False)
        graph = function.get_concrete_function(tf.TensorSpec([8, fields, 4])).graph
        shapes = [tensor.shape for op in graph.get_operations() for tensor in op.outputs]
        return sum(shape.num_elements() for shape in shapes)

    few, some, many = (operations(fields) for fields in (100, 200, 400))
    assert many - some == 2 * (some - few)


def test_functional_model_and_save(tmp_path):
    inputs = keras.Input((5, 3))
    model = keras.Model(inputs, FactorizationMachine(name="fm")(inputs))
    assert tuple(model.output.shape) == (None, 1)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert isinstance(loaded.get_layer("fm"), FactorizationMachine)
    data = np.random.default_rng(0).normal(size=(2, 5, 3)).astype("f")
    np.testing.assert_array_equal(model(data), loaded(data))


def test_bad_inputs_are_a_sentence():
    with pytest.raises(ValueError, match=r"must have the shape \[batch, fields, dim\], but have"):
        FactorizationMachine()(tf.ones((2, 3)))
