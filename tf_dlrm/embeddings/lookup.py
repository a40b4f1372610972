"""Lookup and update of tables, written once for all places where rows may be."""

from __future__ import annotations

import abc
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from tf_dlrm.embeddings.bags import Bags, of_one_batch
from tf_dlrm.embeddings.block import Block, StackedFeature
from tf_dlrm.embeddings.config import FeatureConfig, tables_of
from tf_dlrm.embeddings.pooling import StackBatch
from tf_dlrm.embeddings.requests import (
    RowGradients,
    RowIds,
    StoreBags,
    StoreGradients,
    joined,
)
from tf_dlrm.embeddings.stack import Stack
from tf_dlrm.embeddings.tables import Table, TableSet
from tf_dlrm.kernels.use import are_allowed


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


class Tables(abc.ABC):
    """A `Placement` of tables in stacks. A subclass is a store: it says where rows are.

    It makes the stacks, and has `read` and `write`; where it can do more than hand out rows, also
    `pools`.

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

    def pools(self, stack: Stack, bags: Mapping[str, Bags]) -> Collection[str]:
        """Returns the names of those features of a stack whose bags the store pools itself."""
        del stack, bags
        return ()

    @abc.abstractmethod
    def read(
        self, wanted: Sequence[RowIds], pooled: Sequence[StoreBags]
    ) -> tuple[list[tuple[tf.Tensor, Any]], list[tuple[dict[str, tf.Tensor], Any]]]:
        """Reads rows, each with what `write` wants to know of the reading.

        Args:
            wanted: Rows of different stacks.
            pooled: What `pools` has named.

        Returns:
            For each of `wanted` the rows, float32 [n, dim]; for each of `pooled` the vectors
            [batch, dim] of its features.
        """

    @abc.abstractmethod
    def write(
        self,
        rows: Sequence[RowGradients],
        pooled: Sequence[StoreGradients],
        step: tf.Tensor,
        finite: tf.Tensor,
        kernels: bool,
    ) -> tf.Tensor:
        """Updates each row once, by the sum of all of its gradients.

        Args:
            rows: Rows of different stacks, and their gradients.
            pooled: Gradients of what the store has pooled; of one stack there may be several.
            step: Scalar int64, the number of updates made before this one.
            finite: Scalar bool; where it is false, no row is updated.
            kernels: Whether native kernels may do it.

        Returns:
            `finite`, where all who update together have said it.
        """

    def lookup(self, bags: Mapping[str, Bags]) -> Lookup:
        """See `Placement.lookup`."""
        bags = self._of_one_batch(bags)
        batches: list[StackBatch | None] = []
        wanted, pooled = [], []
        for stack in self.stacks:
            own = {feature.name: bags[feature.feature] for feature in stack.features}
            names = self.pools(stack, own)
            by_store = [f for f in stack.features if f.name in names]
            by_rows = [f for f in stack.features if f.name not in names]
            if by_store:
                pooled.append(StoreBags(stack, by_store, own))
            batch = StackBatch(by_rows, own, stack.rows, stack.dim) if by_rows else None
            batches.append(batch)
            if batch is not None:
                wanted.append(RowIds(stack, batch.ids))
        rows, vectors = self.read(wanted, pooled)
        parts: dict[str, tf.Tensor] = {}
        of_stacks, read = [], iter(rows)
        for batch in batches:
            found = None if batch is None else _Found(batch, *next(read))
            of_stacks.append(found)
            if found is not None:
                parts.update(found.batch.pool(found.rows))
        for of_store, _ in vectors:
            parts.update(of_store)
        kept = [(asked, residual) for asked, (_, residual) in zip(pooled, vectors, strict=True)]
        residuals = _Residuals(of_stacks, kept, are_allowed())
        return Lookup(self._joined(parts), bags, residuals)

    def weight_gradients(
        self, lookup: Lookup, gradients: Mapping[str, tf.Tensor]
    ) -> dict[str, tf.Tensor]:
        """See `Placement.weight_gradients`."""
        self._check_trained([lookup])
        summed: dict[str, tf.Tensor] = {}
        for stack, found in zip(self.stacks, lookup.residuals.found, strict=True):
            weighted = [
                f
                for f in stack.features
                if f.feature in gradients and lookup.bags[f.feature].weights is not None
            ]
            own = {f.name: lookup.bags[f.feature] for f in stack.features}
            there = {f.name for f in found.batch.features} if found else set()
            if any(f.name not in there for f in weighted):  # the store has pooled their rows
                batch = StackBatch(weighted, own, stack.rows, stack.dim)
                (((rows, _),), _) = self.read([RowIds(stack, batch.ids)], [])
                found = _Found(batch, rows, None)
            if not weighted or found is None:
                continue
            parts = {
                f.name: _columns(gradients[f.feature], f, stack.dim)
                if f.feature in gradients
                else tf.zeros([own[f.name].batch, stack.dim])
                for f in found.batch.features
            }
            of_parts = found.batch.weight_gradients(found.rows, parts)
            for f in weighted:
                before = summed.get(f.feature)
                part = of_parts[f.name]
                summed[f.feature] = part if before is None else before + part
        return summed

    def update(self, pulled: Sequence[Pulled]) -> None:
        """See `Placement.update`; one update for each stack on each device."""
        self._check_trained([p.lookup for p in pulled])
        finite = all_finite(pulled)
        place = self._counter()
        step = self.tables.counters[place].read_value()
        rows, pooled = [], []
        for k, stack in enumerate(self.stacks):
            used = []
            for lookup, of_features in pulled:
                parts = _parts_of(stack, of_features)
                found: _Found | None = lookup.residuals.found[k]
                by_rows = {f.name for f in found.batch.features} if found else set()
                for (_, features, bags), residual in lookup.residuals.pooled_of(stack):
                    own = {f.name: parts[f.name] for f in features if f.name in parts}
                    if own:
                        pooled.append(StoreGradients(stack, features, bags, own, residual))
                own = {name: part for name, part in parts.items() if name in by_rows}
                if found is not None and own:
                    used.append((lookup, found, own))
            if len(used) == 1 and len(used[0][2]) == len(used[0][1].batch.features):
                ((_, found, own),) = used
                of_rows = found.batch.unpool(own)
                rows.append(RowGradients(stack, found.batch.ids, of_rows, found.residual))
            elif used:
                rows.append(_joined_rows(stack, [(lookup, own) for lookup, _, own in used]))
        kernels = any(p.lookup.residuals.kernels for p in pulled)
        finite = self.write(rows, pooled, step, finite, kernels)
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
    """What a lookup has read of one stack: ids, their rows [n, dim], and what `write` wants."""

    batch: StackBatch
    rows: tf.Tensor
    residual: Any


class _Residuals(NamedTuple):
    """What a lookup found.

    Attributes:
        found: Of each stack, what was read by rows.
        pooled: What the store has pooled, and what `read` returned beside it.
        kernels: Whether kernels may update the rows.
    """

    found: Sequence[_Found | None]
    pooled: Sequence[tuple[StoreBags, Any]]
    kernels: bool

    def pooled_of(self, stack: Stack) -> list[tuple[StoreBags, Any]]:
        """Returns those of `pooled` that are of a stack."""
        return [entry for entry in self.pooled if entry[0].stack is stack]


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


def _joined_rows(
    stack: Stack, used: Sequence[tuple[Lookup, Mapping[str, tf.Tensor]]]
) -> RowGradients:
    """Returns which rows of a stack were used by several lookups, or by some of its features."""
    found = []
    for lookup, parts in used:
        features = [f for f in stack.features if f.name in parts]
        bags = {f.name: lookup.bags[f.feature] for f in features}
        found.append(StoreGradients(stack, features, bags, parts, None).of_rows())
    return joined(found)
