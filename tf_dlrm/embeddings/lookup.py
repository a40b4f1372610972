"""Lookup and update of tables, written once for all places where rows may be."""

from __future__ import annotations

import abc
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from tf_dlrm.embeddings.bags import Bags, of_one_batch
from tf_dlrm.embeddings.block import Block, StackedFeature
from tf_dlrm.embeddings.config import FeatureConfig, tables_of
from tf_dlrm.embeddings.requests import Asked, Used
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
    # See `StackBatch`.
    _axis_of_features = 0

    def __init__(
        self, features: Sequence[FeatureConfig], stacks: Sequence[Stack], tables: TableSet
    ) -> None:
        """Looks up features in stacks, whose `logical_tables` are `tables`."""
        self._features = [feature.name for feature in features]
        self.stacks = tuple(stacks)
        self.tables = tables

    def pools(self, stack: Stack, bags: Mapping[str, Bags]) -> Collection[str]:
        """Returns the names of those features of a stack whose bags the store pools itself."""
        del stack, bags
        return ()

    @abc.abstractmethod
    def read(self, asked: Sequence[Asked]) -> list[tuple[Any, Any]]:
        """Reads rows.

        Returns:
            For each of `asked` the rows `batch.ids`, float32 [n, dim], or, of what `pools` has
            named, the vectors [batch, dim] by feature; and what `write` wants to know of the
            reading.
        """

    @abc.abstractmethod
    def write(
        self,
        used: Sequence[Sequence[Used]],
        step: tf.Tensor,
        finite: tf.Tensor,
        kernels: bool,
    ) -> tf.Tensor:
        """Updates each row once, by the sum of all of its gradients.

        Args:
            used: Of each stack that was used, what came back to one lookup or several.
            step: Scalar int64, the number of updates made before this one.
            finite: Scalar bool; where it is false, no row is updated.
            kernels: Whether native kernels may do it.

        Returns:
            `finite`, where all who update together have said it.
        """

    def lookup(self, bags: Mapping[str, Bags]) -> Lookup:
        """See `Placement.lookup`."""
        bags = self._of_one_batch(bags)
        asked = []
        for stack in self.stacks:
            own = {feature.name: bags[feature.feature] for feature in stack.features}
            names = self.pools(stack, own)
            by_store = [f for f in stack.features if f.name in names]
            by_rows = [f for f in stack.features if f.name not in names]
            if by_rows:
                asked.append(Asked.by_rows(stack, by_rows, own, self._axis_of_features))
            if by_store:
                asked.append(Asked(stack, by_store, own, None))
        parts: dict[str, tf.Tensor] = {}
        found = []
        for entry, (values, residual) in zip(asked, self.read(asked), strict=True):
            parts.update(values if entry.batch is None else entry.batch.pool(values))
            found.append(_Found(entry, values, residual))
        return Lookup(self._joined(parts), bags, _Residuals(found, are_allowed()))

    def weight_gradients(
        self, lookup: Lookup, gradients: Mapping[str, tf.Tensor]
    ) -> dict[str, tf.Tensor]:
        """See `Placement.weight_gradients`."""
        self._check_trained([lookup])
        summed: dict[str, tf.Tensor] = {}
        for asked, rows, _ in lookup.residuals.found:
            stack, features, bags, batch = asked
            weighted = [
                f for f in features if f.feature in gradients and bags[f.name].weights is not None
            ]
            if not weighted:
                continue
            if batch is None:  # the store has pooled their rows
                again = Asked.by_rows(stack, weighted, bags)
                batch, ((rows, _),) = again.batch, self.read([again])
            parts = _columns(batch.features, gradients, stack.dim)
            for f in batch.features:
                if f.name not in parts:
                    parts[f.name] = tf.zeros([bags[f.name].batch, stack.dim])
            of_parts = batch.weight_gradients(rows, parts)
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
        used: dict[Stack, list[Used]] = {stack: [] for stack in self.stacks}
        for lookup, gradients in pulled:
            for asked, _, residual in lookup.residuals.found:
                own = _columns(asked.features, gradients, asked.stack.dim)
                if own:
                    used[asked.stack].append(Used(asked, own, residual))
        kernels = any(p.lookup.residuals.kernels for p in pulled)
        finite = self.write([own for own in used.values() if own], step, finite, kernels)
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
        counters: As of `TableSet`.
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
        [shard.variable for shard in shards if shard.variables],
    )


class _Found(NamedTuple):
    """What a lookup has read, and what `write` wants to know of it."""

    asked: Asked
    values: Any
    residual: Any


class _Residuals(NamedTuple):
    """What a lookup found, and whether kernels may update the rows."""

    found: Sequence[_Found]
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


def _columns(
    features: Sequence[StackedFeature], gradients: Mapping[str, tf.Tensor], dim: int
) -> dict[str, tf.Tensor]:
    """Returns of those views whose features have gradients, the columns that are theirs."""
    found = {}
    for f in features:
        if f.feature in gradients:
            whole = gradients[f.feature]
            found[f.name] = (
                whole if f.part_of is None else whole[:, f.first_column : f.first_column + dim]
            )
    return found
