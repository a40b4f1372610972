"""What looks up and updates the tables of a TPU: its embedding hardware, or the host in its place.

All of them take ids that `ready_ids` has checked and laid out. `enqueue` belongs outside of
`strategy.run`, `receive` and `apply` inside of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from tf_dlrm.embeddings.bags import Bags, make_bags
from tf_dlrm.embeddings.block import ROWS, Block, StackedFeature
from tf_dlrm.embeddings.config import FeatureConfig, TableConfig, tables_of
from tf_dlrm.embeddings.pooling import StackBatch
from tf_dlrm.embeddings.range_check import check_pieces
from tf_dlrm.embeddings.tables import Table
from tf_dlrm.internals import rows_from_tpu, rows_to_tpu, variables_on_hosts
from tf_dlrm.tpu.config import feature_configs
from tf_dlrm.tpu.optimizers import tpu_names
from tf_dlrm.tpu.tables import DealtBlock, DealtLayout, HostTable

# Where TensorFlow does not know how many SparseCores a chip has, it takes this number too.
_SPARSE_CORES_OF_A_CHIP = 4


class Engine:
    """Tables and what looks them up and updates them; this one has none.

    Attributes:
        tables: The logical tables.
        variables: The variables that hold them on the host, for SavedModels.
        row_variables: Those of them that always hold the newest rows of the tables.
    """

    def __init__(self) -> None:
        """Has no tables yet."""
        self.tables: list[Table] = []
        self.variables: list[tf.Variable] = []
        self.row_variables: list[tf.Variable] = []

    def enqueue(self, ids: Mapping[str, Any]) -> Any:
        """Hands over the ids of a batch, each a value of every replica.

        Returns:
            What `receive` wants, as an argument of `strategy.run`.
        """
        return dict(ids)

    def receive(self, queued: Any) -> tuple[dict[str, tf.Tensor], Any]:
        """Returns for each feature the vectors [batch, dim], and what `apply` wants."""
        del queued
        return {}, None

    def apply(self, gradients: Mapping[str, tf.Tensor], kept: Any, step: tf.Tensor) -> None:
        """Updates the looked-up rows once with the gradients [batch, dim] of the vectors."""

    def before_steps(self) -> None:
        """Says that training steps follow, which want what was written into the tables."""


def ready_ids(feature: FeatureConfig, bags: Bags) -> Any:
    """Returns the ids of a feature as embedding hardware takes them, all in range.

    Args:
        feature: The feature.
        bags: Its bags.

    Returns:
        int32 or int64 [batch] where every bag has one id, else a ragged tensor [batch, None].

    Raises:
        ValueError: If the bags have weights.
        tf.errors.InvalidArgumentError: When it runs, if an id is outside its table and the table
            has no out-of-vocabulary row.
    """
    if bags.weights is not None:
        raise ValueError(
            f"Feature '{feature.name}' has weights, but a TPU's embedding hardware gives no "
            "gradients of them. Use another placement, or no weights."
        )
    ids = in_range(feature, bags)
    if bags.hotness == 1:
        return tf.ensure_shape(ids, [bags.static_batch])
    if bags.hotness is not None:
        batch = bags.batch if bags.static_batch is None else bags.static_batch
        splits = tf.range(batch + 1) * bags.hotness
        return tf.RaggedTensor.from_row_splits(ids, tf.cast(splits, tf.int64), validate=False)
    batch = tf.cast(bags.batch if bags.static_batch is None else bags.static_batch, tf.int64)
    row = tf.cast(bags.bag_indices(), tf.int64)
    return tf.RaggedTensor.from_value_rowids(ids, row, nrows=batch, validate=False)


def in_range(feature: FeatureConfig, bags: Bags) -> tf.Tensor:
    """Returns the ids [n] of a feature, those outside of its table as its out-of-vocabulary row."""
    return check_pieces([StackedFeature(feature.name, feature.table, 0)], [bags], bags.ids.dtype)


class HostEngine(Engine):
    """Does on the host what a TPU does: for tests, and for serving in the API of TensorFlow.

    Lookups are those of `tf.tpu.experimental.embedding.TPUEmbeddingForServing`; updates are made by
    this package's optimizers, because that API has none for the host.
    """

    def __init__(self, features: Sequence[FeatureConfig], seed: int, step: tf.Variable) -> None:
        """Creates the tables.

        Args:
            features: The features.
            seed: Seed of the first values.
            step: The variable that counts the updates.
        """
        super().__init__()
        self._features = features
        self._embedding = tf.tpu.experimental.embedding.TPUEmbeddingForServing(
            feature_configs(features, seed, step), None
        )
        self._variables: dict[str, dict[str, tf.Variable]] = {}
        for table in tables_of(features):
            made = self._embedding.variables[table.name]
            own = {key: made[name] for key, name in tpu_names(table).items()}
            self._variables[table.name] = own
            self.variables += own.values()
            self.row_variables.append(own[ROWS])
            self.tables.append(Table(table, [Block.whole(table, variables=own)]))

    def receive(self, queued: Any) -> tuple[dict[str, tf.Tensor], Any]:
        """See `Engine.receive`."""
        vectors = self._embedding(queued)
        for feature in self._features:
            batch = queued[feature.name].shape[0]
            vectors[feature.name].set_shape([batch, feature.table.dim])
        return vectors, queued

    def apply(self, gradients: Mapping[str, tf.Tensor], kept: Any, step: tf.Tensor) -> None:
        """See `Engine.apply`."""
        for table in tables_of(self._features):
            own = [StackedFeature(f.name, table, 0) for f in self._features if f.table == table]
            bags = {f.name: make_bags(f.name, kept[f.name]) for f in own}
            batch = StackBatch(own, bags, table.vocabulary_size, table.dim)
            slots = dict(self._variables[table.name])
            rows = slots.pop("rows")
            table.optimizer.apply(rows, slots, batch.ids, batch.unpool(gradients), step)


class EmbeddingUnitEngine(Engine):
    """The embedding hardware of TPU v2, v3 and v4, by `tf.tpu.experimental.embedding.TPUEmbedding`.

    The tables are on the TPU. Variables on the hosts take them over when they are read, and are
    loaded into the TPU before the next step when they were written. Not verified on hardware.
    """

    def __init__(
        self,
        features: Sequence[FeatureConfig],
        seed: int,
        step: tf.Variable,
        replica_batch_size: int,
        pipelining: bool,
    ) -> None:
        """Creates the tables under the current TPUStrategy.

        Args:
            features: The features.
            seed: Seed of the first values.
            step: The variable that counts the updates.
            replica_batch_size: Rows of a replica's batch.
            pipelining: Whether lookups may run beside the step before, and miss its update.
        """
        super().__init__()
        configs = feature_configs(features, seed, step, replica_batch_size)
        self._embedding = tf.tpu.experimental.embedding.TPUEmbedding(configs, None, pipelining)
        self._embedding.build()
        # "host" or "tpu" where only one of them has the newest values.
        self._ahead = ""
        for table in tables_of(features):
            made = variables_on_hosts(self._embedding, table.name)
            of_hosts = {k: made[name].variables for k, name in tpu_names(table).items()}
            self.variables += [v for found in of_hosts.values() for v in found]
            blocks = _host_blocks(table, of_hosts)
            self.tables.append(HostTable(table, blocks, self._from_tpu, self._before_write))

    def enqueue(self, ids: Mapping[str, Any]) -> Any:
        """See `Engine.enqueue`."""
        self._embedding.enqueue(dict(ids), training=True)
        return {}

    def receive(self, queued: Any) -> tuple[dict[str, tf.Tensor], Any]:
        """See `Engine.receive`."""
        del queued
        return self._embedding.dequeue(), None

    def apply(self, gradients: Mapping[str, tf.Tensor], kept: Any, step: tf.Tensor) -> None:
        """See `Engine.apply`; the hardware has the step from `feature_configs`."""
        del kept, step
        self._embedding.apply_gradients(dict(gradients))

    def before_steps(self) -> None:
        """See `Engine.before_steps`."""
        if self._ahead == "host":
            rows_to_tpu(self._embedding)
        self._ahead = "tpu"

    def _from_tpu(self) -> None:
        if self._ahead == "tpu":
            rows_from_tpu(self._embedding)
            self._ahead = ""

    def _before_write(self) -> None:
        self._from_tpu()
        self._ahead = "host"


def _host_blocks(table: TableConfig, of_hosts: Mapping[str, Sequence[tf.Variable]]) -> list[Block]:
    """Returns the consecutive rows that each host has.

    Args:
        table: The table.
        of_hosts: For "rows" and each slot, the variable of each host.
    """
    blocks, first = [], 0
    for host, variable in enumerate(of_hosts[ROWS]):
        own = {key: found[host] for key, found in of_hosts.items()}
        rows = variable.shape[0]
        blocks.append(Block(table, first, rows, 0, table.dim, host, variables=own))
        first += rows
    return blocks


class SparseCoreEngine(Engine):
    """The SparseCores of TPU v5p and later, by `tf.tpu.experimental.embedding.TPUEmbeddingV2`.

    TensorFlow takes the ids to the host from within the step. Not verified on hardware.
    """

    def __init__(
        self,
        features: Sequence[FeatureConfig],
        seed: int,
        step: tf.Variable,
        replica_batch_size: int,
        pipelining: bool,
        limits: Any = None,
    ) -> None:
        """Creates the tables under the current TPUStrategy.

        Args:
            features: The features.
            seed: Seed of the first values.
            step: The variable that counts the updates.
            replica_batch_size: Rows of a replica's batch.
            pipelining: Whether lookups may run beside the step before, and miss its update.
            limits: None, or a `tf.tpu.experimental.embedding.SparseCoreEmbeddingConfig`.

        Raises:
            ValueError: If a table has more rows than 32-bit numbers count.
        """
        super().__init__()
        for table in tables_of(features):
            if table.vocabulary_size > tf.int32.max:
                raise ValueError(
                    f"Table '{table.name}' has {table.vocabulary_size} rows, but a SparseCore "
                    f"takes ids of 32 bits, up to {tf.int32.max}."
                )
        strategy = tf.distribute.get_strategy()
        hardware = strategy.extended.tpu_hardware_feature
        of_chip = hardware.num_embedding_devices_per_chip or _SPARSE_CORES_OF_A_CHIP
        cores = strategy.num_replicas_in_sync * of_chip
        self._embedding = tf.tpu.experimental.embedding.TPUEmbeddingV2(
            feature_configs(features, seed, step, replica_batch_size, cores),
            None,
            pipelining,
            limits,
        )
        self._embedding.build()
        self.tables = [self._table(table) for table in tables_of(features)]

    def _table(self, table: TableConfig) -> Table:
        layout = self._embedding.embedding_layouts[table.name]
        made = self._embedding.variables[layout.stacked_table_name]
        layout = DealtLayout(
            layout.num_sparse_cores,
            layout.sparse_core_shard_row_offset,
            layout.sparse_core_shard_rotation,
        )
        own = {key: made[name].values for key, name in tpu_names(table).items()}
        return Table(table, [DealtBlock.whole(table, variables=own, layout=layout)])

    def receive(self, queued: Any) -> tuple[dict[str, tf.Tensor], Any]:
        """See `Engine.receive`."""
        return self._embedding(queued)

    def apply(self, gradients: Mapping[str, tf.Tensor], kept: Any, step: tf.Tensor) -> None:
        """See `Engine.apply`; the hardware has the step from `feature_configs`."""
        del step
        self._embedding.apply_gradients(dict(gradients), preserved_outputs=kept)
