"""Training on a TPU: its strategy, its share of the batches, and its compiled steps.

Not verified on hardware; under one device the host stands in for the embedding hardware, which is
how it is tested.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tf_dlrm.embeddings.stored_features import stored_ids
from tf_dlrm.errors import UserError, first_line
from tf_dlrm.kernels.use import kernels_allowed
from tf_dlrm.models import Ensemble, RankingModel
from tf_dlrm.tpu.placement import TpuPlacement, TpuPlan
from tf_dlrm.training.build import build_model, copy_weights
from tf_dlrm.training.distribution.distribution import Distribution, Logits
from tf_dlrm.training.loss import CROSS_ENTROPY, CrossEntropy
from tf_dlrm.training.options.config import TrainingConfig
from tf_dlrm.training.options.distribution import DistributionOptions
from tf_dlrm.training.sources import Source
from tf_dlrm.training.steps import make_logits, repeated
from tfrecords.schema import Schema
from tfrecords.tracing import traced_as_written

# The label of a row that only fills up a batch.
_NO_LABEL = -1.0


def make_tpu_strategy(options: DistributionOptions) -> tf.distribute.TPUStrategy:
    """Connects to the TPU that the options name, initializes it, and returns its strategy.

    Raises:
        UserError: if there is no such TPU.
    """
    name = options.tpu
    if not name:
        raise UserError(
            "--distribution=tpu needs --tpu: the name or address of a TPU, or local for one of "
            "this machine."
        )
    if name == "local" and not tf.config.list_physical_devices("TPU"):
        raise UserError(
            "--tpu=local, but TensorFlow finds no TPU in this machine; on a TPU VM install "
            "tensorflow-tpu in place of tensorflow."
        )
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
        if name != "local":
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    # Of the resolver come errors of Google's client libraries too, which may not be installed.
    except Exception as error:
        raise UserError(f"--tpu={name} cannot be reached: {first_line(error)}.") from error


def tpu_placement(model: RankingModel | Ensemble) -> TpuPlacement:
    """Returns where a model has its tables.

    Raises:
        ValueError: If they are elsewhere, or in several collections, for which a TPU has no room.
    """
    placements = [collection.placement for collection in model.collections]
    if len(placements) > 1:
        raise ValueError(
            f"A TPU's embedding hardware serves one collection of tables, but the model has "
            f"{len(placements)}; train the members of an ensemble one after the other."
        )
    if not isinstance(placements[0], TpuPlacement):
        raise ValueError(
            f"The model has its tables in a {type(placements[0]).__name__}, not on a TPU; build it "
            "under a TPUStrategy, or with a TpuPlan."
        )
    return placements[0]


@traced_as_written
def distribute_to_tpu(
    strategy: tf.distribute.Strategy,
    batches: tf.data.Dataset,
    batch_size: int,
    model: RankingModel | Ensemble,
) -> Any:
    """Gives each replica its share of every batch, in shapes that never change.

    Ids are checked here, because the TPU itself cannot. A batch that is too short is filled up with
    copies of its first row that have no label: they count for nothing, and the rows of tables that
    they touch are touched anyway.

    Args:
        strategy: The strategy.
        batches: Batches ({"dense": [batch, n], feature: ids}, labels [batch]) of all replicas.
        batch_size: Rows of a whole batch.
        model: The model that will train on them.

    Returns:
        An iterable whose elements hold, for replica `k` of `n`, the rows `k`, `k + n`, ... of a
        batch.

    Raises:
        UserError: if the replicas cannot have equal shares.
    """
    count = strategy.num_replicas_in_sync
    if batch_size % count:
        raise UserError(
            f"--batch_size={batch_size} must be a multiple of {count}, the number of the TPU's "
            "replicas."
        )
    placement = tpu_placement(model)

    def ready(features: dict[str, Any], labels: tf.Tensor) -> tuple[dict[str, Any], tf.Tensor]:
        rows = tf.shape(labels)[0]
        tf.debugging.assert_less_equal(
            rows, batch_size, f"A batch has more rows than the batch size, {batch_size}."
        )
        place = tf.range(batch_size)
        source = tf.where(place < rows, place, 0)
        features = {name: _rows_of(column, source) for name, column in features.items()}
        labels = tf.where(place < rows, tf.gather(labels, source), _NO_LABEL)
        own = {feature.name: features.pop(feature.name) for feature in model.config.features}
        ids = placement.ready(stored_ids(model.config.features, own))
        return {**features, **ids}, labels

    def share(replica: Any, features: dict[str, Any], labels: tf.Tensor) -> Any:
        rows = tf.reshape(tf.range(batch_size), [batch_size // count, count])[:, replica]
        return tf.nest.map_structure(lambda column: _rows_of(column, rows), (features, labels))

    prepared = batches.map(ready, tf.data.AUTOTUNE)
    if count == 1:
        return prepared.prefetch(tf.data.AUTOTUNE)

    def of_host(context: tf.distribute.InputContext) -> tf.data.Dataset:
        each = count // context.num_input_pipelines
        first = context.input_pipeline_id * each

        def shares(*batch: Any) -> tf.data.Dataset:
            replicas = tf.data.Dataset.range(first, first + each)
            return replicas.map(lambda replica: share(replica, *batch))

        return prepared.flat_map(shares).prefetch(tf.data.AUTOTUNE)

    # The embedding hardware gets its ids from the host.
    options = tf.distribute.InputOptions(experimental_fetch_to_device=False)
    return strategy.distribute_datasets_from_function(of_host, options)


def _rows_of(column: Any, rows: tf.Tensor) -> Any:
    """Returns rows of a dense or ragged column, whose number is known while tracing."""
    found = tf.gather(column, rows)
    if not isinstance(column, tf.RaggedTensor):
        return found
    splits = tf.ensure_shape(found.row_splits, [rows.shape[0] + 1])
    return tf.RaggedTensor.from_row_splits(found.values, splits, validate=False)


def make_tpu_training_steps(
    model: RankingModel | Ensemble,
    optimizer: Any,
    strategy: tf.distribute.Strategy | None = None,
    loss_of: CrossEntropy = CROSS_ENTROPY,
) -> Callable[[Any, tf.Tensor], tf.Tensor]:
    """Returns a function (iterator of batches, count) -> sum of the `count` mean losses.

    As `make_training_steps`, for batches of `distribute_to_tpu`. In each step the host enqueues the
    ids; the embedding hardware looks them up; the dense part, all in one computation that XLA
    compiles, makes vectors into gradients and trains the MLPs and the tables on the cores; the
    hardware gets the gradients of its vectors and updates its tables.

    Raises:
        ValueError: If the model does not have its tables on a TPU.
    """
    strategy = strategy or tf.distribute.get_strategy()
    placement = tpu_placement(model)
    dense_part = make_dense_part(model, optimizer, strategy, loss_of)
    if not isinstance(strategy, tf.distribute.TPUStrategy):
        # On a TPU, XLA compiles all that runs.
        dense_part = tf.function(traced_as_written(dense_part), jit_compile=True)

    def step(queued: Any, features: dict[str, tf.Tensor], labels: tf.Tensor) -> tf.Tensor:
        vectors, kept = placement.receive(queued)
        loss, gradients = dense_part(vectors, features, labels)
        placement.apply(gradients, kept)
        return loss

    def enqueue_and_step(iterator: Any) -> tf.Tensor:
        features, labels = next(iterator)
        queued = placement.enqueue(
            {name: features.pop(name) for name in placement.hardware_features}
        )
        return strategy.run(step, args=(queued, features, labels))

    compiled_steps = repeated(enqueue_and_step, strategy)

    def training_steps(iterator: Any, count: tf.Tensor) -> tf.Tensor:
        placement.before_steps()
        return compiled_steps(iterator, count)

    return training_steps


def make_dense_part(
    model: RankingModel | Ensemble,
    optimizer: Any,
    strategy: tf.distribute.Strategy,
    loss_of: CrossEntropy = CROSS_ENTROPY,
) -> Callable[..., tuple[tf.Tensor, dict[str, tf.Tensor]]]:
    """Returns the part of a step between the embedding hardware's vectors and their gradients.

    The function takes `{feature: vectors [batch, dim]}` of the embedding hardware, all other
    features, and labels [batch], negative where a row does not count. It returns the replica's part
    of the mean loss over all replicas' rows, and the gradients of the vectors; on its way it trains
    the MLPs and the tables on the cores.
    """
    placement = tpu_placement(model)

    def dense_part(
        vectors: dict[str, tf.Tensor], features: dict[str, tf.Tensor], labels: tf.Tensor
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        counts = labels >= 0
        rows = tf.reduce_sum(tf.cast(counts, tf.float32))
        if strategy.num_replicas_in_sync > 1:
            rows = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, rows)
        # The hardware has the ids of its features already; here they only have to be something.
        nothing = tf.zeros_like(labels, tf.int32)
        ids = dict.fromkeys(placement.hardware_features, nothing)
        with placement.receiving(vectors) as received:
            with tf.GradientTape() as tape:
                # XLA compiles TensorFlow's own operations only.
                with kernels_allowed(False):
                    logits = tf.reshape(model({**features, **ids}, training=True), [-1])
                losses = loss_of(labels, logits)
                loss = tf.reduce_sum(tf.where(counts, losses, 0.0)) / rows
            variables = model.trainable_variables
            gradients = tape.gradient(loss, variables)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return loss, received.gradients

    return dense_part


class Tpu(Distribution):
    """Large tables in the embedding hardware of a TPU, all else on its cores.

    With `--tpu=host` this machine does what a TPU does.
    """

    share_out = staticmethod(distribute_to_tpu)
    make_steps = staticmethod(make_tpu_training_steps)

    def make_strategy(self) -> tf.distribute.Strategy:
        """See `Distribution.make_strategy`."""
        if self.options.tpu == "host":
            return tf.distribute.get_strategy()
        return make_tpu_strategy(self.options)

    def plan_tables(
        self, config: TrainingConfig, source: Source, strategy: tf.distribute.Strategy
    ) -> TpuPlan:
        """See `Distribution.plan_tables`."""
        return TpuPlan(
            max(1, config.run.batch_size // strategy.num_replicas_in_sync),
            self.options.tpu_small_table_rows,
            self.options.tpu_pipelining,
        )

    def evaluated_logits(
        self,
        config: TrainingConfig,
        schema: Schema,
        model: RankingModel | Ensemble,
        strategy: tf.distribute.Strategy,
    ) -> Callable[[], Logits]:
        """See `Distribution.evaluated_logits`: of a copy, since the hardware serves training."""
        local = build_model(config.model, config.optimizer, schema, config.run.seed)
        logits = make_logits(local)

        def copied() -> Logits:
            copy_weights(model, local)
            return logits

        return copied
