"""A dense layer with relu whose gradient is one pass over its outputs."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tf_dlrm.kernels.use import load


def relu_dense(inputs: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """Returns relu(inputs kernel + bias), float32 [batch, units].

    Of the gradient, TensorFlow computes that of the relu and that of the bias one after the other,
    the latter by one thread; here both are one operation of all threads.

    Args:
        inputs: float32 [batch, inputs].
        kernel: float32 [inputs, units].
        bias: float32 [units].
    """
    operations = load()

    @tf.custom_gradient
    def run(inputs: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tuple[tf.Tensor, Any]:
        outputs = tf.nn.relu(tf.nn.bias_add(tf.matmul(inputs, kernel), bias))

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            product, of_bias = operations.tf_dlrm_unbias(upstream, outputs)
            return (
                tf.matmul(product, kernel, transpose_b=True),
                tf.matmul(inputs, product, transpose_a=True),
                of_bias,
            )

        return outputs, gradient

    result: tf.Tensor = run(inputs, kernel, bias)
    return result
