"""Tables cut over the replicas of a strategy, whose ids and vectors move by all-to-all."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tf_dlrm.embeddings.bags import Bags
from tf_dlrm.embeddings.config import FeatureConfig
from tf_dlrm.embeddings.lookup import Lookup, Tables, logical_tables
from tf_dlrm.embeddings.plan import Plan
from tf_dlrm.embeddings.requests import (
    RowGradients,
    RowIds,
    StoreBags,
    StoreGradients,
    joined,
    none_unless,
)
from tf_dlrm.embeddings.stack import Stack, make_stacks, on_devices
from tf_dlrm.embeddings.stores.all_to_all import AllToAll
from tf_dlrm.embeddings.stores.pooled_exchange import PooledExchange, pooled_by_owner
from tf_dlrm.embeddings.tables import update_counter


class ModelParallelPlacement(Tables):
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

    def __init__(
        self,
        features: Sequence[FeatureConfig],
        plan: Plan,
        all_to_all: AllToAll,
        devices: Mapping[int, str],
        seed: int = 0,
        dtype: tf.DType = tf.float32,
    ) -> None:
        """Creates the tables, each block on its device, and draws their first values.

        Args:
            features: The features and their tables.
            plan: Where each table is; its devices are the replicas.
            all_to_all: How tensors move between the replicas.
            devices: The device of each replica of this process, by number. Of the others' blocks
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
        stacks = make_stacks(features, plan, on_devices(devices))
        self._all_to_all = all_to_all
        self._dtype = dtype
        self._all_here = len(devices) == plan.devices
        self._replicas = list(devices)
        counters = []
        for device in devices.values():
            with tf.device(device):
                counters.append(update_counter())
        super().__init__(features, stacks, logical_tables(features, stacks, seed, counters))

    def pools(self, stack: Stack, bags: Mapping[str, Bags]) -> Collection[str]:
        """See `Tables.pools`."""
        if stack.copied or self._all_to_all.replica() is None:
            return ()
        return pooled_by_owner(stack, bags)

    def read(
        self, wanted: Sequence[RowIds], pooled: Sequence[StoreBags]
    ) -> tuple[list[tuple[tf.Tensor, Any]], list[tuple[dict[str, tf.Tensor], Any]]]:
        """See `Tables.read`.

        Outside of replica contexts, where Keras builds a model and a single process evaluates
        one, rows are gathered from the devices directly; such a lookup cannot be updated.
        """
        replica = self._all_to_all.replica()
        if replica is None:
            if not self._all_here:
                raise ValueError(
                    "Tables that are cut over processes can be looked up within strategy.run only."
                )
            return [(stack.gather(ids), None) for stack, ids in wanted], []
        world = self._all_to_all.world
        requests = [_Request(stack, ids, world) for stack, ids in wanted]
        exchanges = [
            PooledExchange(stack, [f.name for f in features], bags, world)
            for stack, features, bags in pooled
        ]
        self._ask(requests, exchanges, replica)
        served, sizes = [], []
        for request in requests:
            if request.stack.copied:
                continue
            shard = request.stack.shards[replica]
            sizes.append(request.size * request.stack.dim)
            if shard is None:
                rows = tf.zeros([world, sizes[-1]])
            else:
                rows = tf.reshape(tf.gather(shard.variable, request.asked), [world, sizes[-1]])
            served.append(tf.cast(rows, self._dtype))
        for exchange in exchanges:
            sizes.append(exchange.vectors_size)
            served.append(exchange.serve(replica, self._dtype))
        received = iter(self._exchange(served, sizes) if served else [])
        found = []
        for request, (stack, ids) in zip(requests, wanted, strict=True):
            if stack.copied:
                rows = tf.gather(stack.on(replica).variable, ids)
            else:
                flat = tf.reshape(next(received), [-1, stack.dim])
                rows = tf.gather(flat, tf.gather(request.place(), request.index))
                rows = tf.cast(rows, tf.float32)
            found.append((rows, request))
        return found, [(exchange.vectors(next(received)), exchange) for exchange in exchanges]

    def write(
        self,
        rows: Sequence[RowGradients],
        pooled: Sequence[StoreGradients],
        step: tf.Tensor,
        finite: tf.Tensor,
        kernels: bool,
    ) -> tf.Tensor:
        """See `Tables.write`.

        A gradient that is not finite on one replica keeps all of them from updating.
        """
        world, replica = self._all_to_all.world, self._replica()
        # Of other rows than those of one lookup, the owners must be told which.
        requests = [own.residual or _Request(own.stack, own.ids, world) for own in rows]
        self._ask([request for request in requests if request.asked is None], [], replica)
        # What each replica says of its gradients goes along with them.
        pieces = [tf.fill([world, 1], tf.cast(finite, self._dtype))]
        sizes = [tf.constant(1)]
        for request, own in zip(requests, rows, strict=True):
            count = tf.size(request.unique)
            summed = tf.math.unsorted_segment_sum(own.gradients, request.index, count)
            pieces.append(self._to_owners(request, tf.cast(summed, self._dtype)))
            sizes.append(request.size * request.stack.dim)
        for bags in pooled:
            pieces.append(bags.residual.pulls(bags.gradients, self._dtype))
            sizes.append(bags.residual.vectors_size)
        said, *received = self._exchange(pieces, sizes)
        finite = tf.reduce_min(said) > 0
        found = [
            request.of_rows(gradients)
            for request, gradients in zip(requests, received[: len(requests)], strict=True)
            if request.stack.shards[replica] is not None
        ]
        for bags, gradients in zip(pooled, received[len(requests) :], strict=True):
            found += bags.residual.of_rows(gradients, bags.gradients)
        for stack in self.stacks:
            of_stack = [own for own in found if own.stack is stack]
            if of_stack:
                own = joined(of_stack)
                ids, gradients = none_unless(finite, own.ids, own.gradients)
                stack.on(replica).update(ids, gradients, step, kernels)
        return finite

    def _check_trained(self, lookups: Sequence[Lookup]) -> None:
        read = [found for lookup in lookups for found in lookup.residuals.found if found]
        self._replica(all(found.residual is not None for found in read))

    def _counter(self) -> int:
        return self._replicas.index(self._replica())

    def _replica(self, looked_up_there: bool = True) -> int:
        """Returns the number of the replica that is trained."""
        replica = self._all_to_all.replica()
        if replica is None or not looked_up_there:
            raise ValueError(
                "Tables that are cut over the replicas of a strategy can be trained within "
                "strategy.run only, which Keras's fit uses."
            )
        return replica

    def _ask(
        self, requests: Sequence[_Request], pooled: Sequence[PooledExchange], replica: int
    ) -> None:
        """Tells the owners of rows which of them each replica asks for: two exchanges."""
        if not requests and not pooled:
            return
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

    def _to_owners(self, request: _Request, values: tf.Tensor) -> tf.Tensor:
        """Lays out values of the unique ids in pieces, [world, size * width]."""
        world = self._all_to_all.world
        width = values.shape[1:].num_elements()
        shape = [world, request.size * width]
        if request.stack.copied:
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
        stack: The stack.
        unique: The different rows [u] of the stack among the ids.
        index: Which of them each id is, [n].
        local: The number [u] of the row on its device.
        sent: Number of rows asked of each replica, int32 [world].
        size: Number of rows in a piece, set when all replicas' numbers are known.
        counts: Number of rows that each replica asks for here, int32 [world]; set as `size`.
        asked: Their numbers on this replica [world, size]; None until the exchange of ids.
    """

    stack: Stack
    unique: tf.Tensor
    index: tf.Tensor
    local: tf.Tensor
    sent: tf.Tensor
    size: tf.Tensor
    counts: tf.Tensor
    asked: tf.Tensor | None = None

    def __init__(self, stack: Stack, ids: tf.Tensor, world: int) -> None:
        self.stack = stack
        self.unique, self.index = tf.unique(ids)
        if stack.copied:
            self.local = self.unique
            self.sent = tf.fill([world], tf.size(self.unique))
            return
        route = stack.route(self.unique)
        self.local = route.row
        self._device = route.device
        self.sent = tf.math.bincount(route.device, minlength=world, maxlength=world)
        # The number of each row among those of its device.
        order = tf.argsort(route.device, stable=True)
        begin = tf.cumsum(self.sent, exclusive=True)
        self._rank = tf.math.invert_permutation(order) - tf.gather(begin, route.device)

    def place(self) -> tf.Tensor:
        """Returns the place [u] of each unique row in what is sent and received, int32."""
        return self._device * self.size + self._rank

    def of_rows(self, gradients: tf.Tensor) -> RowGradients:
        """Returns the rows of this replica and their gradients, from those of all replicas."""
        there = tf.sequence_mask(self.counts, self.size)
        gradients = tf.reshape(gradients, [-1, self.size, self.stack.dim])
        own = tf.cast(tf.boolean_mask(gradients, there), tf.float32)
        return RowGradients(self.stack, tf.boolean_mask(self.asked, there), own)
