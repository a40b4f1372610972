import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.training.build import build_dense_optimizer, build_model
from tf_dlrm.training.config import ModelOptions, OptimizerOptions
from tfrecords.schema import CategoricalColumn, Schema


@pytest.mark.parametrize("gradient", [1e-6, 0.5])
def test_dense_adagrad_is_the_one_of_the_papers_code(gradient):
    schema = Schema(dense=("x",), categorical=(CategoricalColumn("c", 5),))
    options = OptimizerOptions(dense_optimizer="adagrad", dense_learning_rate=0.1)
    sizes = ModelOptions(embedding_dim=2, bottom_mlp=(2,), top_mlp=(1,))
    model = build_model(sizes, options, schema, seed=0)
    optimizer = build_dense_optimizer(options, model)
    before = [variable.numpy() for variable in model.trainable_variables]
    for _ in range(2):
        optimizer.apply_gradients(
            [(tf.fill(v.shape, gradient), v) for v in model.trainable_variables]
        )
    # accumulator += g^2; weight -= rate * g / (sqrt(accumulator) + 1e-10), twice.
    moved = sum(0.1 * gradient / (np.sqrt(n) * gradient + 1e-10) for n in (1, 2))
    for variable, old in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_allclose(old - variable.numpy(), moved, rtol=1e-3)
