"""Tables on a TPU: large ones in its embedding hardware, small ones on its cores."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tf_dlrm.embeddings.bags import Bags, make_bags
from tf_dlrm.embeddings.config import FeatureConfig, tables_of
from tf_dlrm.embeddings.lookup import Lookup, Pulled, all_finite
from tf_dlrm.embeddings.schedules import scale_of_rates
from tf_dlrm.embeddings.stack import chunks
from tf_dlrm.embeddings.stores.choose import register
from tf_dlrm.embeddings.stores.local import LocalPlacement
from tf_dlrm.embeddings.tables import TableSet, update_counter
from tf_dlrm.errors import check_whole
from tf_dlrm.tpu.engine import (
    EmbeddingUnitEngine,
    Engine,
    HostEngine,
    SparseCoreEngine,
    in_range,
    ready_ids,
)
from tf_dlrm.tpu.optimizers import moves_without_gradient
from tf_dlrm.tpu.replicated import ReplicatedTables


@dataclasses.dataclass(frozen=True)
class TpuPlan:
    """How tables are placed on a TPU; passed where other strategies take a `Plan`.

    Attributes:
        replica_batch_size: Rows of a replica's batch, which a TPU must know beforehand; without a
            TPU it may be None.
        small_table_rows: Tables of fewer rows stay on the cores, a copy on each.
        pipelining: Whether the embedding hardware looks up the next batch while the cores work on
            this one. Its vectors then miss one update. Has no effect without a TPU.
        sparse_core_limits: None, or a `tf.tpu.experimental.embedding.SparseCoreEmbeddingConfig`,
            for the buffers of TPUs with SparseCores.
    """

    replica_batch_size: int | None = None
    small_table_rows: int = 10_000
    pipelining: bool = False
    sparse_core_limits: Any = None

    def __post_init__(self) -> None:
        if self.replica_batch_size is not None:
            check_whole("replica_batch_size", self.replica_batch_size, 1)
        check_whole("small_table_rows", self.small_table_rows, 0)


@dataclasses.dataclass
class Received:
    """One batch of the embedding hardware, between its vectors and their gradients.

    Attributes:
        vectors: For each feature of the embedding hardware, float32 [batch, dim].
        gradients: Their gradients, once the backward pass is traced.
    """

    vectors: Mapping[str, tf.Tensor]
    gradients: dict[str, tf.Tensor] = dataclasses.field(default_factory=dict)


class TpuPlacement:
    """Large tables in the TPU's embedding hardware, small ones on its cores.

    The embedding hardware works beside the cores, so a step has parts (see `training.tpu`):

    1. in the input pipeline, `ready` checks the ids;
    2. outside of `strategy.run`, `enqueue` hands them to the hardware;
    3. inside, `receive` gets the vectors; the model runs within `receiving`, where `lookup` returns
       them and `update` keeps their gradients; `apply` sends these to the hardware.

    Without a TPU the host stands in for the hardware. There, `lookup` and `update` also work as
    those of every other placement.

    Attributes:
        tables: The tables as logical [vocabulary_size, dim] tensors.
        hardware_features: Names of the features whose tables are in the embedding hardware.
    """

    checks_ids_on_host = True

    def __init__(
        self, features: Sequence[FeatureConfig], plan: TpuPlan | None = None, seed: int = 0
    ) -> None:
        """Creates the tables under the current strategy and draws their first values.

        Args:
            features: The features and their tables.
            plan: Which tables stay on the cores, and options of the hardware.
            seed: Seed of the first values.

        Raises:
            ValueError: If features contradict each other, the hardware cannot have a table, or the
                strategy is neither for a TPU nor for one device.
        """
        plan = plan or TpuPlan()
        tables_of(features)
        self._features = {feature.name: feature for feature in features}
        strategy = tf.distribute.get_strategy()
        self._on_tpu = isinstance(strategy, tf.distribute.TPUStrategy)
        if not self._on_tpu and strategy.num_replicas_in_sync != 1:
            raise ValueError(
                f"Tables for a TPU need a TPUStrategy, or one device to try them on, but the "
                f"strategy is a {type(strategy).__name__} of {strategy.num_replicas_in_sync} "
                "replicas."
            )
        small = [f for f in features if f.table.vocabulary_size < plan.small_table_rows]
        large = [f for f in features if f not in small]
        self.hardware_features = tuple(feature.name for feature in large)
        counter = update_counter()
        if self._on_tpu:
            aggregation = tf.VariableAggregation.ONLY_FIRST_REPLICA
            counter = tf.Variable(
                0, trainable=False, name="updates", dtype=tf.int64, aggregation=aggregation
            )
        self._engine = _engine(large, plan, seed, counter, self._on_tpu)
        self._small = ReplicatedTables(small, seed)
        self._received: Received | None = None
        parts = (self._engine, self._small)
        held = {table.config.name: table for part in parts for table in part.tables}
        variables = [variable for part in parts for variable in part.variables]
        row_variables = [variable for part in parts for variable in part.row_variables]
        ordered = [held[table.name] for table in tables_of(features)]
        self.tables = TableSet(ordered, variables, [counter], row_variables)

    def ready(self, ids: Mapping[str, Any]) -> dict[str, Any]:
        """Returns ids of all features as the other methods want them; for the input pipeline.

        Args:
            ids: For each feature ids as `make_bags` takes them.

        Raises:
            ValueError: If ids are none of these.
            tf.errors.InvalidArgumentError: When it runs, if an id is outside its table and the
                table has no out-of-vocabulary row.
        """
        found = {}
        for name, feature in self._features.items():
            bags = make_bags(name, ids[name])
            if name in self.hardware_features:
                found[name] = ready_ids(feature, bags)
            else:
                flat = in_range(feature, bags)
                found[name] = ids[name]
                if bags.hotness is not None:
                    found[name] = tf.reshape(flat, tf.shape(ids[name]))
                    found[name].set_shape(ids[name].shape)
        return found

    def before_steps(self) -> None:
        """Must be called before every stretch of training steps, outside of functions."""
        self._engine.before_steps()

    def enqueue(self, ids: Mapping[str, Any]) -> Any:
        """Hands the ids of a batch to the hardware, outside of `strategy.run`.

        Args:
            ids: What `ready` returned, each a value of every replica.

        Returns:
            What `receive` wants, as an argument of `strategy.run`.
        """
        return self._engine.enqueue({name: ids[name] for name in self.hardware_features})

    def receive(self, queued: Any) -> tuple[dict[str, tf.Tensor], Any]:
        """Returns the vectors [batch, dim] of the hardware's features, and what `apply` wants."""
        return self._engine.receive(queued)

    @contextlib.contextmanager
    def receiving(self, vectors: Mapping[str, tf.Tensor]) -> Iterator[Received]:
        """While it is open, `lookup` returns these vectors and `update` keeps their gradients.

        The ids of the hardware's features play no part then, and those of the others must be in
        range.
        """
        self._received = Received(vectors)
        try:
            yield self._received
        finally:
            self._received = None

    def apply(self, gradients: Mapping[str, tf.Tensor], kept: Any) -> None:
        """Sends gradients [batch, dim] to the hardware, and counts the update.

        Args:
            gradients: Those that `receiving` has kept.
            kept: The second result of `receive`.
        """
        step = self.tables.updates.read_value()
        missing = [name for name in self.hardware_features if name not in gradients]
        if missing:
            raise ValueError(
                f"The embedding hardware waits for gradients of {missing}; without them it "
                "would wait for ever. Compute gradients within `receiving`."
            )
        self._engine.apply(gradients, kept, step)
        self.tables.updates.assign_add(1)

    def lookup(self, bags: Mapping[str, Bags]) -> Lookup:
        """See `Placement.lookup`.

        Raises:
            ValueError: If a feature has weights, or the tables are in a TPU and no vectors were
                received from it.
        """
        received = self._received
        if received is not None:
            vectors = {**received.vectors, **self._small.lookup(bags)}
            return Lookup(vectors, bags, (received, None))
        if self._on_tpu:
            raise ValueError(
                "Tables in a TPU are looked up by the steps of tf_dlrm.training.distribution.tpu "
                "only; for anything else copy the model (`local_copy`, or copy_weights of "
                "tf_dlrm.training.build)."
            )
        ready = {n: ready_ids(self._features[n], bags[n]) for n in self.hardware_features}
        vectors, kept = self._engine.receive(self._engine.enqueue(ready))
        bags = {
            name: entry
            if name in self.hardware_features
            else dataclasses.replace(entry, ids=in_range(self._features[name], entry))
            for name, entry in bags.items()
        }
        vectors.update(self._small.lookup(bags))
        return Lookup(vectors, bags, (None, kept))

    def weight_gradients(
        self, lookup: Lookup, gradients: Mapping[str, tf.Tensor]
    ) -> dict[str, tf.Tensor]:
        """Returns nothing: no feature may have weights. See `Placement.weight_gradients`."""
        del lookup, gradients
        return {}

    def update(self, pulled: Sequence[Pulled]) -> None:
        """See `Placement.update`; within `receiving`, small tables learn and the rest is kept.

        Where a gradient is not finite on one of the cores, tables on the cores stay as they are on
        all of them, and zeros go to the embedding hardware, which always waits for gradients. Such
        an update is counted as every other one.

        Raises:
            ValueError: If there are several lookups, or a feature of the embedding hardware was
                not used and zeros would move its rows.
        """
        if scale_of_rates() is not None:
            raise ValueError(
                "Tables on a TPU cannot follow the learning rate of a model's optimizer. Call "
                "follow(None) on their layer, and they keep their own rates."
            )
        if len(pulled) > 1:
            raise ValueError(
                f"The tables were looked up {len(pulled)} times on the way to one loss, but a "
                "TPU's embedding hardware is looked up once a step. Give all ids in one call, each "
                "as a feature of its own."
            )
        ((lookup, gradients),) = pulled
        received, kept = lookup.residuals
        finite = all_finite(pulled)
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            context = tf.distribute.get_replica_context()
            wrong = tf.cast(~finite, tf.float32)
            finite = context.all_reduce(tf.distribute.ReduceOp.SUM, wrong) < 0.5
        step = self.tables.updates.read_value()
        self._small.update(lookup.bags, gradients, step, finite)
        of_hardware = {}
        for name in self.hardware_features:
            optimizer = self._features[name].table.optimizer
            if name not in gradients and moves_without_gradient(optimizer):
                raise ValueError(
                    f"Feature '{name}' was looked up but not used, and a TPU's embedding hardware "
                    f"updates whatever is looked up: {type(optimizer).__name__} would move its "
                    "rows. Leave the feature out, or give its table another optimizer."
                )
            zeros = tf.zeros_like(lookup.vectors[name])
            of_hardware[name] = tf.where(finite, gradients.get(name, zeros), zeros)
        if received is not None:
            received.gradients.update(of_hardware)
        else:
            self.apply(of_hardware, kept)


def local_copy(placement: TpuPlacement, features: Sequence[FeatureConfig]) -> LocalPlacement:
    """Returns the same tables on one device, with their slots: for serving and evaluation.

    Args:
        placement: The tables.
        features: The features that it was made for.
    """
    local = LocalPlacement(features)
    for name in placement.tables:
        giver, taker = placement.tables[name], local.tables[name]
        for key in giver.keys():
            for start, count in chunks(giver.shape(key)):
                taker.assign_rows(giver.read_rows(start, count, key), start, key)
    local.tables.updates.assign(placement.tables.updates.read_value())
    return local


def _engine(
    features: Sequence[FeatureConfig], plan: TpuPlan, seed: int, step: tf.Variable, on_tpu: bool
) -> Engine:
    if not features:
        return Engine()
    if not on_tpu:
        return HostEngine(features, seed, step)
    if plan.replica_batch_size is None:
        raise ValueError("On a TPU, TpuPlan needs replica_batch_size, but it is None.")
    hardware = tf.distribute.get_strategy().extended.tpu_hardware_feature.embedding_feature
    kinds = tf.tpu.experimental.HardwareFeature.EmbeddingFeature
    if hardware == kinds.V1:
        return EmbeddingUnitEngine(features, seed, step, plan.replica_batch_size, plan.pipelining)
    if hardware == kinds.V2:
        size, limits = plan.replica_batch_size, plan.sparse_core_limits
        return SparseCoreEngine(features, seed, step, size, plan.pipelining, limits)
    names = [table.name for table in tables_of(features)]
    raise ValueError(
        f"This TPU has no embedding hardware for the tables {names}, which have "
        f"{plan.small_table_rows} rows or more; raise small_table_rows to keep them on its cores."
    )


def make_tpu_placement(
    features: Sequence[FeatureConfig],
    plan: Any = None,
    seed: int = 0,
    communication_dtype: tf.DType = tf.float32,
) -> TpuPlacement:
    """Creates the tables of the features under the current strategy, a TPUStrategy or one device.

    Args:
        features: The features and their tables.
        plan: A `TpuPlan`, or None for the default one.
        seed: Seed of the first values.
        communication_dtype: Has no effect: the embedding hardware sends float32.

    Raises:
        ValueError: If the plan is one of devices, or see `TpuPlacement`.
    """
    del communication_dtype
    if plan is not None and not isinstance(plan, TpuPlan):
        kinds = sorted({table.sharding for table in plan.tables.values()})
        raise ValueError(
            "A TPU's embedding hardware cuts every table by rows over all of its chips, so a plan "
            f"of devices (here with {', '.join(kinds)} tables) has no use; give a TpuPlan instead."
        )
    return TpuPlacement(features, plan, seed)


register(TpuPlan, make_tpu_placement)
