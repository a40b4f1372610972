"""The compiled training steps: many in one call, so that Python is not on the way."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tf_dlrm.models.dlrm import DLRM


def make_training_steps(model: DLRM, optimizer: Any) -> tf.types.experimental.PolymorphicFunction:
    """Returns a function (iterator of batches, count) -> sum of the `count` mean losses.

    The count is a tensor, so one traced function serves any number of steps, and evaluations and
    checkpoints can fall on any step. The loss is the mean cross-entropy on logits over a batch;
    tables learn in the backward pass (see `EmbeddingCollection`), the other weights by `optimizer`.
    """

    @tf.function
    def training_steps(iterator: Any, count: tf.Tensor) -> tf.Tensor:
        total = tf.constant(0.0)
        for _ in tf.range(count):
            features, labels = next(iterator)
            with tf.GradientTape() as tape:
                logits = tf.reshape(model(features, training=True), [-1])
                loss = tf.reduce_mean(
                    tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits)
                )
            variables = model.trainable_variables
            optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
            total += loss
        return total

    return training_steps


def make_logits(model: DLRM) -> tf.types.experimental.PolymorphicFunction:
    """Returns a compiled function from a batch of features to its logits, shape [batch]."""

    @tf.function(reduce_retracing=True)
    def logits(features: dict[str, tf.Tensor]) -> tf.Tensor:
        return tf.reshape(model(features, training=False), [-1])

    return logits
