import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.training.build import build_dense_optimizer, build_model
from tf_dlrm.training.options.config import ModelOptions, OptimizerOptions
from tfrecords.schema import CategoricalColumn, Schema


def _moved(dense_optimizer, gradients):
    """Returns by how much each weight is less after updates of rate 0.1."""
    schema = Schema(dense=("x",), categorical=(CategoricalColumn("c", 5),))
    options = OptimizerOptions(dense_optimizer=dense_optimizer, dense_learning_rate=0.1)
    sizes = ModelOptions(embedding_dim=2, bottom_mlp=(2,), top_mlp=(1,))
    model = build_model(sizes, options, schema, seed=0)
    optimizer = build_dense_optimizer(options, model)
    before = [variable.numpy() for variable in model.trainable_variables]
    for gradient in gradients:
        optimizer.apply_gradients(
            [(tf.fill(v.shape, gradient), v) for v in model.trainable_variables]
        )
    after = [variable.numpy() for variable in model.trainable_variables]
    return [old - new for old, new in zip(before, after, strict=True)]


def test_dense_sgd_is_gradient_descent():
    for moved in _moved("sgd", [0.5, -0.25]):
        np.testing.assert_allclose(moved, 0.1 * (0.5 - 0.25), rtol=1e-4)


def test_dense_adam_is_adam():
    first = second = expected = 0.0
    for step, gradient in enumerate([0.5, -0.25, 2.0], 1):
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        rate = 0.1 * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        expected += rate * first / (np.sqrt(second) + 1e-7)
    for moved in _moved("adam", [0.5, -0.25, 2.0]):
        np.testing.assert_allclose(moved, expected, rtol=1e-3)


@pytest.mark.parametrize("gradient", [1e-6, 0.5])
def test_dense_adagrad_is_the_one_of_the_papers_code(gradient):
    # accumulator += g^2; weight -= rate * g / (sqrt(accumulator) + 1e-10), twice.
    moved = sum(0.1 * gradient / (np.sqrt(n) * gradient + 1e-10) for n in (1, 2))
    for change in _moved("adagrad", [gradient, gradient]):
        np.testing.assert_allclose(change, moved, rtol=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_layers_compute_in_the_type_that_was_asked_for(dtype):
    schema = Schema(dense=("x",), categorical=(CategoricalColumn("c", 5),))
    sizes = ModelOptions(embedding_dim=2, bottom_mlp=(2,), top_mlp=(3, 1), compute_dtype=dtype)
    model = build_model(sizes, OptimizerOptions(), schema, seed=0)
    inputs = {"dense": tf.constant([[0.3], [7.1]]), "c": tf.constant([1, 4])}
    assert model.top_mlp.compute_dtype == model.bottom_mlp.compute_dtype == dtype
    assert all(weight.dtype == tf.float32 for weight in model.trainable_variables)
    logits = model(inputs)
    assert logits.dtype == tf.float32
    exact = build_model(
        ModelOptions(embedding_dim=2, bottom_mlp=(2,), top_mlp=(3, 1)),
        OptimizerOptions(),
        schema,
        seed=0,
    )
    np.testing.assert_allclose(logits, exact(inputs), rtol=0.05, atol=0.02)
    assert np.array_equal(logits, exact(inputs)) == (dtype == "float32")
