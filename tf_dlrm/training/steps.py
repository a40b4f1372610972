"""The compiled training steps: many in one call, so that Python is not on the way."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tf_dlrm.models import DLRM, Ensemble


def make_training_steps(
    model: DLRM | Ensemble, optimizer: Any
) -> tf.types.experimental.PolymorphicFunction:
    """Returns a function (iterator of batches, count) -> sum of the `count` mean losses.

    The count is a tensor, so one traced function serves any number of steps, and evaluations and
    checkpoints can fall on any step. The loss is the mean cross-entropy on logits over a batch (and
    over the members of an ensemble); tables learn in the backward pass (see `EmbeddingCollection`),
    the other weights by `optimizer`.
    """

    @tf.function
    def training_steps(iterator: Any, count: tf.Tensor) -> tf.Tensor:
        total = tf.constant(0.0)
        for _ in tf.range(count):
            features, labels = next(iterator)
            with tf.GradientTape() as tape:
                logits = model(features, training=True)  # [batch, 1], or [batch, members]
                losses = tf.reduce_mean(
                    tf.nn.sigmoid_cross_entropy_with_logits(
                        labels=tf.broadcast_to(labels[:, tf.newaxis], tf.shape(logits)),
                        logits=logits,
                    ),
                    axis=0,
                )
                # Their sum, so that every member learns as it would alone.
                loss = tf.reduce_sum(losses)
            variables = model.trainable_variables
            optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
            total += tf.reduce_mean(losses)
        return total

    return training_steps


def make_logits(model: DLRM | Ensemble) -> tf.types.experimental.PolymorphicFunction:
    """Returns a compiled function from a batch of features to its logits, shape [batch]."""

    @tf.function(reduce_retracing=True)
    def logits(features: dict[str, tf.Tensor]) -> tf.Tensor:
        return tf.reshape(model(features, training=False), [-1])

    return logits
