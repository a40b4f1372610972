"""Tables cut over the replicas of a strategy, whose ids and vectors move by all-to-all."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import tensorflow as tf

from tf_dlrm.embeddings.bags import Bags
from tf_dlrm.embeddings.config import FeatureConfig, tables_of
from tf_dlrm.embeddings.kernels import native
from tf_dlrm.embeddings.kernels.choice import are_allowed
from tf_dlrm.embeddings.placements.all_to_all import AllToAll
from tf_dlrm.embeddings.placements.direct import (
    batch_of,
    gather_directly,
    join_columns,
    pulled_to,
    sum_by_feature,
    weight_gradients,
)
from tf_dlrm.embeddings.placements.placement import (
    Lookup,
    Pulled,
    all_finite,
    none_unless,
    rows_and_gradients,
)
from tf_dlrm.embeddings.placements.pooled_exchange import PooledExchange, pooled_by_owner
from tf_dlrm.embeddings.placements.sharded_stack import ShardedStack, shard_tables
from tf_dlrm.embeddings.placements.sharded_table import ShardedTable
from tf_dlrm.embeddings.plan import DATA_PARALLEL, Plan
from tf_dlrm.embeddings.pooling import StackBatch
from tf_dlrm.embeddings.stack import Piece, Stack
from tf_dlrm.embeddings.tables import TableSet, update_counter


class ModelParallelPlacement:
    """Each replica holds some tables, or some rows or columns of them, and serves all replicas.

    In a step every replica makes the ids of its part of the batch unique, sends each id to the
    replica that has its row, gets the row back, and pools the rows of its bags. The gradients go
    the same way, summed for each id; their owner sums those of all replicas and updates each row
    once. Where bags have many ids and one replica has the whole table, the bags go there instead,
    see `PooledExchange`: it pools them, and one vector and one gradient of each travel.
    Data-parallel tables are looked up at home; their ids and gradients go to all replicas, which
    all make the same update.

    Four exchanges a step: the numbers of ids, the ids, the vectors, the gradients. Pieces of one
    exchange are as large as the largest of them.

    References:
        Naumov et al., arXiv 1906.00091, section 3.1.

    Attributes:
        tables: The tables as logical [vocabulary_size, dim] tensors.
        stacks: The parts of tables, by width and optimizer.
    """

    checks_ids_on_host = False

    def __init__(
        self,
        features: Sequence[FeatureConfig],
        plan: Plan,
        all_to_all: AllToAll,
        devices: Mapping[int, str],
        seed: int = 0,
        dtype: tf.DType = tf.float32,
    ) -> None:
        """Creates the tables, each piece on its device, and draws their first values.

        Args:
            features: The features and their tables.
            plan: Where each table is; its devices are the replicas.
            all_to_all: How tensors move between the replicas.
            devices: The device of each replica of this process, by number. Of the others' pieces
                there is nothing here.
            seed: Seed of the first values.
            dtype: In which type vectors and gradients travel: float32 or bfloat16.

        Raises:
            ValueError: If the plan does not fit the features or the replicas.
        """
        if plan.devices != all_to_all.world:
            raise ValueError(
                f"The plan is for {plan.devices} device(s), but the strategy has "
                f"{all_to_all.world} replica(s)."
            )

        numbers = itertools.count()

        def make_stack(device: int, pieces: Sequence[Piece]) -> Stack | None:
            if device not in devices:
                return None
            with tf.device(devices[device]):
                return Stack(pieces, seed, f"rows_{next(numbers)}")

        self.stacks = shard_tables(features, plan, make_stack)
        self._all_to_all = all_to_all
        self._dtype = dtype
        self._features = [feature.name for feature in features]
        self._all_here = len(devices) == plan.devices
        self._counters = {}
        for replica, device in devices.items():
            with tf.device(device):
                self._counters[replica] = update_counter()
        tables = []
        for config in tables_of(features):
            held = [h for s in self.stacks for h in s.held if h.piece.table.name == config.name]
            copied = plan.tables[config.name].sharding == DATA_PARALLEL
            tables.append(ShardedTable(config, held, copied))
        here = [stack for s in self.stacks for stack in s.stacks if stack is not None]
        self.tables = TableSet(
            tables,
            [variable for stack in here for variable in stack.variables],
            tuple(self._counters.values()),
            [stack.variable for stack in here],
        )

    def lookup(self, bags: Mapping[str, Bags]) -> Lookup:
        """See `Placement.lookup`.

        Outside of replica contexts, where Keras builds a model and a single process evaluates
        one, rows are gathered from the devices directly; such a lookup cannot be updated.
        """
        replica = self._all_to_all.replica()
        if replica is None:
            return self._lookup_directly(bags)
        return self._lookup_by_exchange(bags, replica)

    def weight_gradients(
        self, lookup: Lookup, gradients: Mapping[str, tf.Tensor]
    ) -> dict[str, tf.Tensor]:
        """See `Placement.weight_gradients`."""
        self._trained_replica([lookup])
        pulled = Pulled(lookup, gradients)
        return sum_by_feature(
            weight_gradients(found.request.stack, found.batch, found.rows, pulled)
            for found in lookup.residuals.by_rows
        )

    def update(self, pulled: Sequence[Pulled]) -> None:
        """See `Placement.update`; one update for each stack on each replica.

        A gradient that is not finite on one replica keeps all of them from updating.
        """
        replica = self._trained_replica([p.lookup for p in pulled])
        step = self._counters[replica].read_value()
        requests, gradients = self._requests_and_gradients(pulled, replica)
        bags = [
            (exchange, pulled_to(exchange.stack, p).gradients)
            for p in pulled
            for exchange in p.lookup.residuals.pooled
        ]
        # What each replica says of its gradients goes along with them.
        world = self._all_to_all.world
        pieces = [tf.fill([world, 1], tf.cast(all_finite(pulled), self._dtype))]
        sizes = [tf.constant(1)]
        for request, gradient in zip(requests, gradients, strict=True):
            summed = tf.math.unsorted_segment_sum(gradient, request.index, tf.size(request.unique))
            pieces.append(self._to_owners(request, tf.cast(summed, self._dtype)))
            sizes.append(request.size * request.stack.dim)
        for exchange, used in bags:
            pieces.append(exchange.pulls(used, self._dtype))
            sizes.append(exchange.vectors_size)
        said, *received = self._exchange(pieces, sizes)
        finite = tf.reduce_min(said) > 0
        of_stacks: dict[int, list[tuple[tf.Tensor, tf.Tensor]]] = {}
        for request, gradient in zip(requests, received[: len(requests)], strict=True):
            found = of_stacks.setdefault(self.stacks.index(request.stack), [])
            if request.stack.stacks[replica] is not None:
                found.append(request.rows_and_gradients(gradient))
        for (exchange, used), gradient in zip(bags, received[len(requests) :], strict=True):
            found = of_stacks.setdefault(self.stacks.index(exchange.stack), [])
            found += exchange.rows_and_gradients(gradient, used)
        by_kernels = any(p.lookup.residuals.by_kernels for p in pulled)
        for number, found in of_stacks.items():
            if found:
                own = self.stacks[number].on(replica)
                dtype = tf.int64 if any(ids.dtype == tf.int64 for ids, _ in found) else tf.int32
                ids = tf.concat([tf.cast(ids, dtype) for ids, _ in found], 0)
                ids, gradient = none_unless(finite, ids, tf.concat([g for _, g in found], 0))
                apply = own.optimizer.apply
                if by_kernels and native.are_used(own.optimizer, own.variable.device):
                    apply = functools.partial(native.update_rows, own.optimizer)
                apply(own.variable, own.slots, ids, gradient, step)
        self.tables.count_update(finite, list(self._counters).index(replica))

    def _trained_replica(self, lookups: Sequence[Lookup]) -> int:
        replica = self._all_to_all.replica()
        if replica is None or any(lookup.residuals is None for lookup in lookups):
            raise ValueError(
                "Tables that are cut over the replicas of a strategy can be trained within "
                "strategy.run only, which Keras's fit uses."
            )
        return replica

    def _requests_and_gradients(
        self, pulled: Sequence[Pulled], replica: int
    ) -> tuple[list[_Request], list[tf.Tensor]]:
        """Returns the request of each stack that was used, and the gradients of its index."""
        parts = [[_by_rows(stack, p) for p in pulled] for stack in self.stacks]
        if len(pulled) == 1:
            by_rows: list[_Found] = pulled[0].lookup.residuals.by_rows
            own = [parts[self.stacks.index(found.request.stack)][0].gradients for found in by_rows]
            whole = [f.features == len(part) for f, part in zip(by_rows, own, strict=True)]
            if all(whole):
                gradients = [f.batch.unpool(part) for f, part in zip(by_rows, own, strict=True)]
                return [found.request for found in by_rows], gradients
        # Other rows than those of one lookup: their owners must be told which.
        requests, gradients = [], []
        for stack, of_stack in zip(self.stacks, parts, strict=True):
            used = [part for part in of_stack if part.gradients]
            if used:
                ids, gradient = rows_and_gradients(used, stack.features, stack.rows, stack.dim)
                requests.append(_Request(stack, ids, self._all_to_all.world))
                gradients.append(gradient)
        if requests:
            self._ask(requests, [], replica)
        return requests, gradients

    def _lookup_by_exchange(self, bags: Mapping[str, Bags], replica: int) -> Lookup:
        world = self._all_to_all.world
        requests, batches, pooled = [], [], []
        for stack in self.stacks:
            names = () if stack.data_parallel else pooled_by_owner(stack, bags)
            if names:
                pooled.append(PooledExchange(stack, names, bags, world))
            if len(names) < len(stack.views):
                batches.append(batch_of(stack, bags, without=names))
                requests.append(_Request(stack, batches[-1].ids, world))
        self._ask(requests, pooled, replica)
        served, sizes = [], []
        for request in requests:
            if request.stack.data_parallel:
                continue
            own = request.stack.stacks[replica]
            sizes.append(request.size * request.stack.dim)
            if own is None:
                rows = tf.zeros([world, sizes[-1]])
            else:
                rows = tf.reshape(tf.gather(own.variable, request.asked), [world, sizes[-1]])
            served.append(tf.cast(rows, self._dtype))
        for exchange in pooled:
            sizes.append(exchange.vectors_size)
            served.append(exchange.serve(replica, self._dtype))
        received = iter(self._exchange(served, sizes) if served else [])
        vectors: dict[str, tf.Tensor] = {}
        found = []
        for request, batch in zip(requests, batches, strict=True):
            if request.stack.data_parallel:
                rows = tf.gather(request.stack.on(replica).variable, batch.ids)
            else:
                flat = tf.reshape(next(received), [-1, request.stack.dim])
                rows = tf.gather(flat, tf.gather(request.place(), request.index))
                rows = tf.cast(rows, tf.float32)
            of_stack = batch.pool(rows)
            found.append(_Found(request, batch, len(of_stack), rows))
            vectors.update(of_stack)
        for exchange in pooled:
            vectors.update(exchange.vectors(next(received)))
        residuals = _Residuals(found, pooled, are_allowed())
        return Lookup(join_columns(self.stacks, self._features, vectors), bags, residuals)

    def _ask(
        self, requests: Sequence[_Request], pooled: Sequence[PooledExchange], replica: int
    ) -> None:
        """Tells the owners of rows which of them each replica asks for: two exchanges."""
        world = self._all_to_all.world
        # What every replica sends to every other one: all learn the largest piece from it.
        columns = [r.sent for r in requests] + [e.sent for e in pooled] + [e.bags for e in pooled]
        counts = tf.stack(columns, 1)
        matrix = self._all_to_all.exchange(tf.tile(counts[tf.newaxis], [world, 1, 1]))
        # One at least, where all bags of all replicas are empty: TensorFlow's all-to-all within a
        # process reads the memory of what it is given, and that of nothing kills the process.
        largest = tf.maximum(tf.reduce_max(matrix, [0, 1]), 1)
        for k, request in enumerate(requests):
            request.size = largest[k]
            request.counts = matrix[:, replica, k]
        for k, exchange in enumerate(pooled, len(requests)):
            exchange.set_sizes(largest[k], largest[k + len(pooled)], matrix[:, replica, k])
        # As 64-bit numbers if those of any stack are.
        local = [*(request.local for request in requests), *(exchange.ids for exchange in pooled)]
        dtype = tf.int64 if any(ids.dtype == tf.int64 for ids in local) else tf.int32
        pieces = [self._to_owners(request, tf.cast(request.local, dtype)) for request in requests]
        sizes = [request.size for request in requests]
        asked = self._exchange(
            pieces + [exchange.asks(dtype) for exchange in pooled],
            sizes + [exchange.asked_size for exchange in pooled],
        )
        for request, ids in zip(requests, asked[: len(requests)], strict=True):
            request.asked = ids
        for exchange, bags in zip(pooled, asked[len(requests) :], strict=True):
            exchange.receive(bags, replica)

    def _lookup_directly(self, bags: Mapping[str, Bags]) -> Lookup:
        if not self._all_here:
            raise ValueError(
                "Tables that are cut over processes can be looked up within strategy.run only."
            )
        vectors: dict[str, tf.Tensor] = {}
        for stack in self.stacks:
            batch = batch_of(stack, bags)
            vectors.update(batch.pool(gather_directly(stack, batch.ids)))
        return Lookup(join_columns(self.stacks, self._features, vectors), bags, None)

    def _to_owners(self, request: _Request, values: tf.Tensor) -> tf.Tensor:
        """Lays out values of the unique ids in pieces, [world, size * width]."""
        world = self._all_to_all.world
        width = values.shape[1:].num_elements()
        shape = [world, request.size * width]
        if request.stack.data_parallel:
            padding = [[0, request.size - tf.size(request.unique)]]
            padding += [[0, 0]] * (values.shape.rank - 1)
            return tf.tile(tf.reshape(tf.pad(values, padding), [1, -1]), [world, 1])
        size = [world * request.size, *values.shape[1:]]
        return tf.reshape(tf.scatter_nd(request.place()[:, tf.newaxis], values, size), shape)

    def _exchange(self, pieces: list[tf.Tensor], sizes: list[tf.Tensor]) -> list[tf.Tensor]:
        """Exchanges pieces [world, size] of several stacks at once."""
        if len(pieces) == 1:
            return [self._all_to_all.exchange(pieces[0])]
        received = self._all_to_all.exchange(tf.concat(pieces, 1))
        return tf.split(received, tf.stack(sizes), axis=1, num=len(sizes))


@dataclasses.dataclass
class _Request:
    """What one replica asks of the others for one stack, and they of it.

    Attributes:
        unique: The different rows [u] of the stack among the ids.
        index: Which of them each id is, [n].
        local: The number [u] of the row on its device.
        sent: Number of rows asked of each replica, int32 [world].
        size: Number of rows in a piece, set when all replicas' numbers are known.
        counts: Number of rows that each replica asks for here, int32 [world]; set as `size`.
        asked: Their numbers on this replica [world, size]; set after the exchange of ids.
    """

    stack: ShardedStack
    unique: tf.Tensor
    index: tf.Tensor
    local: tf.Tensor
    sent: tf.Tensor
    size: tf.Tensor
    counts: tf.Tensor
    asked: tf.Tensor

    def __init__(self, stack: ShardedStack, ids: tf.Tensor, world: int) -> None:
        self.stack = stack
        self.unique, self.index = tf.unique(ids)
        if stack.data_parallel:
            self.local = self.unique
            self.sent = tf.fill([world], tf.size(self.unique))
            return
        route = stack.route(self.unique)
        self.local = route.row
        self._device = route.device
        self.sent = tf.math.bincount(route.device, minlength=world, maxlength=world)
        # The how manyth of its device each row is.
        order = tf.argsort(route.device, stable=True)
        begin = tf.cumsum(self.sent, exclusive=True)
        self._rank = tf.math.invert_permutation(order) - tf.gather(begin, route.device)

    def place(self) -> tf.Tensor:
        """Returns the place [u] of each unique row in what is sent and received, int32."""
        return self._device * self.size + self._rank

    def rows_and_gradients(self, gradients: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the rows of this replica and their gradients, from those of all replicas."""
        there = tf.sequence_mask(self.counts, self.size)
        gradients = tf.reshape(gradients, [-1, self.size, self.stack.dim])
        own = tf.cast(tf.boolean_mask(gradients, there), tf.float32)
        return tf.boolean_mask(self.asked, there), own


class _Found(NamedTuple):
    """What one lookup found in one stack.

    Attributes:
        request: What was asked of the other replicas.
        batch: The bags of those of the stack's features whose rows were asked for.
        features: The number of these.
        rows: float32 [n, dim], the rows of their ids.
    """

    request: _Request
    batch: StackBatch
    features: int
    rows: tf.Tensor


class _Residuals(NamedTuple):
    """What the update of one lookup needs.

    Attributes:
        by_rows: What was found in each stack whose rows were asked for.
        pooled: The bags that their owners pooled.
        by_kernels: Whether kernels may update the rows.
    """

    by_rows: list[_Found]
    pooled: list[PooledExchange]
    by_kernels: bool


def _by_rows(stack: ShardedStack, pulled: Pulled) -> Pulled:
    """Returns what comes back to those views of a stack whose rows were asked for."""
    part = pulled_to(stack, pulled)
    pooled = {name for exchange in pulled.lookup.residuals.pooled for name in exchange.names}
    gradients = {name: value for name, value in part.gradients.items() if name not in pooled}
    return Pulled(part.lookup, gradients)
