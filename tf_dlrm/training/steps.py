"""The compiled training steps: many in one call, so that Python is not on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tf_dlrm.kernels.use import are_allowed, kernels_allowed
from tf_dlrm.models import DLRM, Ensemble
from tf_dlrm.training.distribution.processes import Processes
from tf_dlrm.training.loss import CROSS_ENTROPY, CrossEntropy
from tfrecords.tracing import traced_as_written


def make_training_steps(
    model: DLRM | Ensemble,
    optimizer: Any,
    strategy: tf.distribute.Strategy | None = None,
    loss_of: CrossEntropy = CROSS_ENTROPY,
) -> tf.types.experimental.PolymorphicFunction:
    """Returns a function (iterator of batches, count) -> sum of the `count` mean losses.

    The count is a tensor, so one traced function serves any number of steps, and evaluations and
    checkpoints can fall on any step. The loss is the mean of `loss_of` over a batch (and over the
    members of an ensemble); tables learn in the backward pass (see `EmbeddingCollection`), the
    other weights by `optimizer`. Under a strategy of several replicas each has a share of every
    batch, as `strategy.distribute` hands them out.
    """

    strategy = strategy or tf.distribute.get_strategy()
    step = make_step(model, optimizer, strategy, loss_of)

    return repeated(lambda iterator: strategy.run(step, args=next(iterator)), strategy)


def repeated(
    step: Callable[[Any], tf.Tensor], strategy: tf.distribute.Strategy
) -> tf.types.experimental.PolymorphicFunction:
    """Returns a compiled function (iterator, count) -> sum of the replicas' and steps' losses."""

    @tf.function
    @traced_as_written
    def steps(iterator: Any, count: tf.Tensor) -> tf.Tensor:
        def body(done: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            loss = strategy.reduce(tf.distribute.ReduceOp.SUM, step(iterator), axis=None)
            return done + 1, total + loss

        start = (tf.zeros_like(count), tf.constant(0.0))
        return tf.while_loop(lambda done, total: done < count, body, start)[1]

    return steps


def make_step(
    model: DLRM | Ensemble,
    optimizer: Any,
    strategy: tf.distribute.Strategy,
    loss_of: CrossEntropy,
) -> Callable[[dict[str, tf.Tensor], tf.Tensor], tf.Tensor]:
    """Returns a function (features, labels) -> loss that one replica runs once a step."""

    def step(features: dict[str, tf.Tensor], labels: tf.Tensor) -> tf.Tensor:
        rows = tf.cast(tf.shape(labels)[0], tf.float32)
        if strategy.num_replicas_in_sync > 1:
            rows = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, rows)
        # What is traced here is never compiled by XLA, so MLPs may have kernels too.
        with tf.GradientTape() as tape, kernels_allowed(are_allowed(True)):
            logits = model(features, training=True)  # [batch, 1], or [batch, members]
            # Of a replica's rows the part of the mean over all replicas' rows.
            losses = (
                tf.reduce_sum(
                    loss_of(tf.broadcast_to(labels[:, tf.newaxis], tf.shape(logits)), logits),
                    axis=0,
                )
                / rows
            )
            # Their sum, so that every member learns as it would alone.
            loss = tf.reduce_sum(losses)
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return tf.reduce_mean(losses)

    return step


def make_logits(
    model: DLRM | Ensemble, strategy: tf.distribute.Strategy | None = None
) -> tf.types.experimental.PolymorphicFunction:
    """Returns a compiled function from a batch of features to its logits, shape [batch].

    Under a strategy of several processes all of them must call it with the same batch: each
    computes the logits of its share, and all get those of the whole.
    """

    @tf.function(reduce_retracing=True)
    @traced_as_written
    def logits(features: dict[str, tf.Tensor]) -> tf.Tensor:
        return tf.reshape(model(features, training=False), [-1])

    @tf.function(reduce_retracing=True)
    @traced_as_written
    def shared_logits(features: dict[str, tf.Tensor]) -> tf.Tensor:
        assert strategy is not None
        count = strategy.num_replicas_in_sync
        rows = _rows(features)
        share = (rows + count - 1) // count

        def own_share() -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            first = context.replica_id_in_sync_group
            own = model(
                {name: column[first::count] for name, column in features.items()}, training=False
            )
            own = tf.reshape(own, [-1])
            own = tf.pad(own, [[0, share - tf.size(own)]])
            return context.all_gather(own[tf.newaxis], axis=0)

        shares = strategy.experimental_local_results(strategy.run(own_share))[0]
        return tf.reshape(tf.transpose(shares), [-1])[:rows]

    if strategy is not None and Processes(strategy).count > 1:
        return shared_logits
    return logits


def _rows(features: dict[str, tf.Tensor]) -> tf.Tensor:
    column = next(iter(features.values()))
    return column.nrows(tf.int32) if isinstance(column, tf.RaggedTensor) else tf.shape(column)[0]
