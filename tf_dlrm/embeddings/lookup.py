"""Lookup and update of tables, written once for all places where rows may be."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from tf_dlrm.embeddings.bags import Bags, of_one_batch
from tf_dlrm.embeddings.block import Block, StackedFeature
from tf_dlrm.embeddings.config import FeatureConfig, tables_of
from tf_dlrm.embeddings.kernels.choice import are_allowed
from tf_dlrm.embeddings.pooling import StackBatch
from tf_dlrm.embeddings.stack import Stack
from tf_dlrm.embeddings.tables import Table, TableSet


class Lookup(NamedTuple):
    """What one lookup gives.

    Attributes:
        vectors: For each feature, float32 [batch, dim].
        bags: For each feature, what was looked up.
        residuals: Whatever the tables need to update the rows that were looked up.
    """

    vectors: dict[str, tf.Tensor]
    bags: Mapping[str, Bags]
    residuals: Any


class Pulled(NamedTuple):
    """What a backward pass brings back to one lookup.

    Attributes:
        lookup: The lookup.
        gradients: For each feature whose vectors were used, their gradient [batch, dim]. The rows
            of all other features stay as they are.
    """

    lookup: Lookup
    gradients: Mapping[str, tf.Tensor]


class Placement(Protocol):
    """Where the rows of tables are, how they are found and how they are updated.

    Attributes:
        tables: The tables as logical [vocabulary_size, dim] tensors.
        checks_ids_on_host: Whether ids are in range before they come to `lookup`, also within XLA.
    """

    tables: TableSet
    checks_ids_on_host: bool = False

    def lookup(self, bags: Mapping[str, Bags]) -> Lookup:
        """Looks up the bags of all features."""
        ...

    def weight_gradients(
        self, lookup: Lookup, gradients: Mapping[str, tf.Tensor]
    ) -> dict[str, tf.Tensor]:
        """Returns the gradients of weights, by the rows as they are before the update.

        Args:
            lookup: What `lookup` returned.
            gradients: For each feature whose vectors were used, their gradient [batch, dim].

        Returns:
            For each of these features that had weights, the gradient [n] of them.
        """
        ...

    def update(self, pulled: Sequence[Pulled]) -> None:
        """Updates the rows of lookups with the optimizers of their tables.

        The gradients of a row are summed over all lookups, then the row is updated once. Where one
        of the gradients is not finite, no row of any table is, and the update counts as a skipped
        one.

        Args:
            pulled: The lookups, and what came back to each.
        """
        ...


class RowIds(NamedTuple):
    """Rows of a stack, int32 or int64 [n], with repetitions."""

    stack: Stack
    ids: tf.Tensor


class RowGradients(NamedTuple):
    """Rows of a stack [n], with repetitions, and their gradients, float32 [n, dim].

    `residual` is what `read` returned beside these rows; None where they were not read together.
    """

    stack: Stack
    ids: tf.Tensor
    gradients: tf.Tensor
    residual: Any


class Tables(abc.ABC):
    """A `Placement` of tables in stacks. A subclass is a store: it says where rows are.

    It makes the stacks, and has `read` and `write`; where one operation looks up and pools, also
    `pooled` and `update_pooled`.

    Attributes:
        tables: The tables as logical [vocabulary_size, dim] tensors.
        stacks: Equal columns of several tables each.
    """

    checks_ids_on_host = False

    def __init__(
        self, features: Sequence[FeatureConfig], stacks: Sequence[Stack], tables: TableSet
    ) -> None:
        """Looks up features in stacks.

        Args:
            features: The features and their tables.
            stacks: What holds the tables.
            tables: See `logical_tables`.
        """
        self._features = [feature.name for feature in features]
        self.stacks = tuple(stacks)
        self.tables = tables

    @abc.abstractmethod
    def read(self, wanted: Sequence[RowIds]) -> tuple[list[tf.Tensor], list[Any]]:
        """Returns for each stack the rows [n, dim], and what `write` wants to know of the reading.

        Args:
            wanted: Rows of different stacks.
        """

    @abc.abstractmethod
    def write(
        self, updates: Sequence[RowGradients], step: tf.Tensor, finite: tf.Tensor, kernels: bool
    ) -> tf.Tensor:
        """Updates each row once, by the sum of its gradients.

        Args:
            updates: Rows of different stacks, and their gradients.
            step: Scalar int64, the number of updates made before this one.
            finite: Scalar bool; where it is false, no row is updated.
            kernels: Whether native kernels may do it.

        Returns:
            `finite`, where all who update together have said it.
        """

    def pooled(self, stack: Stack, bags: Mapping[str, Bags]) -> dict[str, tf.Tensor] | None:
        """Returns the vectors of all of a stack's features from one operation; None without one.

        Args:
            stack: The stack.
            bags: For each of its features, the bags.
        """
        del stack, bags
        return None

    def update_pooled(
        self,
        stack: Stack,
        features: Sequence[StackedFeature],
        bags: Mapping[str, Bags],
        gradients: Mapping[str, tf.Tensor],
        step: tf.Tensor,
        finite: tf.Tensor,
    ) -> None:
        """Updates the rows of one lookup by `pooled`.

        Args:
            stack: The stack.
            features: Those of its features that were used.
            bags: For each of the stack's features, the bags.
            gradients: For each of `features`, the gradient [batch, dim] of its vectors.
            step: See `write`.
            finite: See `write`.
        """
        raise NotImplementedError

    def lookup(self, bags: Mapping[str, Bags]) -> Lookup:
        """See `Placement.lookup`."""
        bags = self._of_one_batch(bags)
        parts: dict[str, tf.Tensor] = {}
        batches: list[StackBatch | None] = []
        for stack in self.stacks:
            own = _bags_of(stack.features, bags)
            pooled = self.pooled(stack, own)
            if pooled is None:
                batches.append(StackBatch(stack.features, own, stack.rows, stack.dim))
            else:
                batches.append(None)
                parts.update(pooled)
        wanted = [
            RowIds(stack, batch.ids)
            for stack, batch in zip(self.stacks, batches, strict=True)
            if batch is not None
        ]
        found = iter(zip(*self.read(wanted), strict=True) if wanted else ())
        kept: list[_Found | None] = []
        for batch in batches:
            kept.append(None if batch is None else _Found(batch, *next(found)))
            if batch is not None and kept[-1] is not None:
                parts.update(batch.pool(kept[-1].rows))
        return Lookup(self._joined(parts), bags, _Residuals(kept, are_allowed()))

    def weight_gradients(
        self, lookup: Lookup, gradients: Mapping[str, tf.Tensor]
    ) -> dict[str, tf.Tensor]:
        """See `Placement.weight_gradients`."""
        self._check_trained([lookup])
        summed: dict[str, tf.Tensor] = {}
        for stack, found in zip(self.stacks, lookup.residuals.found, strict=True):
            used = [f for f in stack.features if f.feature in gradients]
            if all(lookup.bags[f.feature].weights is None for f in used):
                continue
            if found is None:  # then no other rows are read again than those that are needed
                own = _bags_of(used, lookup.bags)
                batch, looked_up = StackBatch(used, own, stack.rows, stack.dim), used
                ((rows,), _) = self.read([RowIds(stack, batch.ids)])
            else:
                batch, rows, looked_up = found.batch, found.rows, stack.features
            parts = {
                f.name: _columns(gradients[f.feature], f, stack.dim)
                if f.feature in gradients
                else tf.zeros([lookup.bags[f.feature].batch, stack.dim])
                for f in looked_up
            }
            of_parts = batch.weight_gradients(rows, parts)
            for f in used:
                if f.name in of_parts:
                    part = of_parts[f.name]
                    before = summed.get(f.feature)
                    summed[f.feature] = part if before is None else before + part
        return summed

    def update(self, pulled: Sequence[Pulled]) -> None:
        """See `Placement.update`; one update for each stack on each device."""
        self._check_trained([p.lookup for p in pulled])
        finite = all_finite(pulled)
        place = self._counter()
        step = self.tables.counters[place].read_value()
        updates = []
        for k, stack in enumerate(self.stacks):
            own = [(p.lookup, _parts_of(stack, p.gradients)) for p in pulled]
            own = [(lookup, parts) for lookup, parts in own if parts]
            if not own:
                continue
            lookup, parts = own[0]
            found = lookup.residuals.found[k]
            used = [f for f in stack.features if f.name in parts]
            if len(own) == 1 and found is None:
                bags = _bags_of(used, lookup.bags)
                self.update_pooled(stack, used, bags, parts, step, finite)
            elif len(own) == 1 and used == stack.features:
                of_rows = found.batch.unpool(parts)
                updates.append(RowGradients(stack, found.batch.ids, of_rows, found.residual))
            else:
                updates.append(_rows_and_gradients(stack, own))
        kernels = any(p.lookup.residuals.kernels for p in pulled)
        finite = self.write(updates, step, finite, kernels)
        self.tables.count_update(finite, place)

    def _of_one_batch(self, bags: Mapping[str, Bags]) -> dict[str, Bags]:
        return of_one_batch(bags)

    def _check_trained(self, lookups: Sequence[Lookup]) -> None:
        """Raises ValueError where rows of these lookups cannot be updated."""
        del lookups

    def _counter(self) -> int:
        """Returns which of `tables.counters` counts an update that is made here."""
        return 0

    def _joined(self, parts: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Puts the columns of each feature together."""
        views = [feature for stack in self.stacks for feature in stack.features]
        found: dict[str, list[tf.Tensor]] = {name: [] for name in self._features}
        for view in sorted(views, key=lambda view: view.first_column):
            found[view.feature].append(parts[view.name])
        return {
            name: columns[0] if len(columns) == 1 else tf.concat(columns, 1)
            for name, columns in found.items()
        }


def logical_tables(
    features: Sequence[FeatureConfig],
    stacks: Sequence[Stack],
    seed: int,
    counters: Sequence[tf.Variable] = (),
) -> TableSet:
    """Returns the tables that stacks hold, once their first values are drawn.

    Args:
        features: The features and their tables.
        stacks: What holds the tables.
        seed: Seed of the first values.
        counters: For each replica of this process, what counts the updates; by default one.
    """
    blocks: dict[str, list[Block]] = {}
    held_by_all = {}
    for stack in stacks:
        stack.initialize(seed)
        for block in stack.blocks:
            blocks.setdefault(block.table.name, []).append(block)
            held_by_all[block.table.name] = stack.copied or len(stack.shards) == 1
    shards = [shard for stack in stacks for shard in stack.shards if shard is not None]
    return TableSet(
        [Table(t, blocks[t.name], held_by_all[t.name]) for t in tables_of(features)],
        [variable for shard in shards for variable in shard.variables],
        counters,
        [shard.variable for shard in shards],
    )


class _Found(NamedTuple):
    """What a lookup found in one stack: the ids, float32 [n, dim] of their rows, and the rest."""

    batch: StackBatch
    rows: tf.Tensor
    residual: Any


class _Residuals(NamedTuple):
    """What a lookup found in each stack, None by `pooled`; and whether kernels may update it."""

    found: Sequence[_Found | None]
    kernels: bool


def all_finite(pulled: Sequence[Pulled]) -> tf.Tensor:
    """Returns a bool scalar: whether all gradients, and the weights of their bags, are finite.

    So must be the sums of their squares in float32, which optimizers keep: a gradient of 1e20
    would leave an infinity in them for good.
    """
    squares = []
    for lookup, gradients in pulled:
        for name, gradient in gradients.items():
            squares.append(tf.nn.l2_loss(gradient))  # one operation, one pass
            weights = lookup.bags[name].weights
            if weights is not None:
                squares.append(tf.nn.l2_loss(weights))
    return tf.math.is_finite(tf.add_n(squares))


def none_unless(finite: tf.Tensor, *values: tf.Tensor) -> list[tf.Tensor]:
    """Returns tensors as they are, or without any of their rows where `finite` is false."""
    count = tf.where(finite, tf.shape(values[0])[0], 0)
    return [value[:count] for value in values]


def _bags_of(features: Sequence[StackedFeature], bags: Mapping[str, Bags]) -> dict[str, Bags]:
    return {feature.name: bags[feature.feature] for feature in features}


def _columns(gradient: tf.Tensor, feature: StackedFeature, dim: int) -> tf.Tensor:
    if feature.part_of is None:
        return gradient
    return gradient[:, feature.first_column : feature.first_column + dim]


def _parts_of(stack: Stack, gradients: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Returns the gradients of those features of a stack that were used."""
    return {
        f.name: _columns(gradients[f.feature], f, stack.dim)
        for f in stack.features
        if f.feature in gradients
    }


def _rows_and_gradients(
    stack: Stack, used: Sequence[tuple[Lookup, Mapping[str, tf.Tensor]]]
) -> RowGradients:
    """Returns which rows of a stack were used by several lookups, or by some of its features."""
    ids, gradients = [], []
    for lookup, parts in used:
        features = [f for f in stack.features if f.name in parts]
        own = _bags_of(features, lookup.bags)
        batch = StackBatch(features, own, stack.rows, stack.dim)
        ids.append(batch.ids)
        gradients.append(batch.unpool(parts))
    dtype = tf.int64 if any(entry.dtype == tf.int64 for entry in ids) else tf.int32
    joined = tf.concat([tf.cast(entry, dtype) for entry in ids], 0)
    return RowGradients(stack, joined, tf.concat(gradients, 0), None)
