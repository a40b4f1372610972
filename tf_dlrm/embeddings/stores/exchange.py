"""Tables cut over the replicas of a strategy, whose ids and vectors move by all-to-all."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tf_dlrm.embeddings.bags import Bags
from tf_dlrm.embeddings.config import FeatureConfig
from tf_dlrm.embeddings.lookup import Lookup, Tables, logical_tables
from tf_dlrm.embeddings.plan import Plan
from tf_dlrm.embeddings.requests import Asked, Used, joined, none_unless
from tf_dlrm.embeddings.stack import Stack, make_stacks, on_devices
from tf_dlrm.embeddings.stores.all_to_all import AllToAll
from tf_dlrm.embeddings.stores.exchanges import (
    Exchange,
    PooledExchange,
    RowExchange,
    pooled_by_owner,
)
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
            devices: The device of each replica of this process, by number.
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

    def read(self, asked: Sequence[Asked]) -> list[tuple[Any, Any]]:
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
            return [(own.stack.gather(own.ids), None) for own in asked]
        world = self._all_to_all.world
        exchanges = [
            PooledExchange(own.stack, own.features, own.bags, world)
            if own.batch is None
            else RowExchange(own.stack, own.ids, world)
            for own in asked
        ]
        self._ask(exchanges, replica)
        moving = [exchange for exchange in exchanges if not exchange.stack.copied]
        served = [exchange.serve(replica, self._dtype) for exchange in moving]
        received = iter(self._exchange(served, [exchange.served_size for exchange in moving]))
        found = []
        for own, exchange in zip(asked, exchanges, strict=True):
            if own.stack.copied:
                found.append((tf.gather(own.stack.on(replica).variable, own.ids), exchange))
            else:
                found.append((exchange.found(next(received)), exchange))
        return found

    def write(
        self, used: Sequence[Sequence[Used]], step: tf.Tensor, finite: tf.Tensor, kernels: bool
    ) -> tf.Tensor:
        """See `Tables.write`.

        A gradient that is not finite on one replica keeps all of them from updating.
        """
        world, replica = self._all_to_all.world, self._replica()
        exchanges: list[tuple[Exchange, Any]] = []
        others: list[Exchange] = []
        for of_stack in used:
            by_rows = [own for own in of_stack if own.asked.batch is not None]
            exchanges += [(o.residual, o.gradients) for o in of_stack if o.asked.batch is None]
            if len(by_rows) == 1 and by_rows[0].is_whole:
                exchanges.append((by_rows[0].residual, by_rows[0].of_rows()[1]))
            elif by_rows:
                # Of other rows than those of one lookup, the owners must be told which.
                ids, gradients = joined([own.of_rows() for own in by_rows])
                others.append(RowExchange(by_rows[0].asked.stack, ids, world))
                exchanges.append((others[-1], gradients))
        self._ask(others, replica)
        # What each replica says of its gradients goes along with them.
        said, *pulled = self._exchange(
            [
                tf.fill([world, 1], tf.cast(finite, self._dtype)),
                *(exchange.pulls(gradients, self._dtype) for exchange, gradients in exchanges),
            ],
            [tf.constant(1), *(exchange.served_size for exchange, _ in exchanges)],
        )
        finite = tf.reduce_min(said) > 0
        held: dict[Stack, list[tuple[tf.Tensor, tf.Tensor]]] = {}
        for (exchange, gradients), of_all in zip(exchanges, pulled, strict=True):
            rows = exchange.of_rows(of_all, gradients, replica)
            if rows is not None:
                held.setdefault(exchange.stack, []).append(rows)
        for stack, found in held.items():
            ids, gradients = none_unless(finite, *joined(found))
            stack.on(replica).update(ids, gradients, step, kernels)
        return finite

    def _check_trained(self, lookups: Sequence[Lookup]) -> None:
        read = [found for lookup in lookups for found in lookup.residuals.found]
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

    def _ask(self, exchanges: Sequence[Exchange], replica: int) -> None:
        """Tells the owners of rows what each replica asks for: two exchanges."""
        if not exchanges:
            return
        world = self._all_to_all.world
        # What every replica sends to every other one: all learn the largest piece from it.
        sizes = [size for exchange in exchanges for size in exchange.sizes]
        matrix = self._all_to_all.exchange(tf.tile(tf.stack(sizes, 1)[tf.newaxis], [world, 1, 1]))
        # One at least, where all bags of all replicas are empty: TensorFlow's all-to-all within a
        # process reads the memory of what it is given, and that of nothing kills the process.
        largest = tf.maximum(tf.reduce_max(matrix, [0, 1]), 1)
        first = 0
        for exchange in exchanges:
            agreed = [largest[k] for k in range(first, first + len(exchange.sizes))]
            exchange.agree(agreed, matrix[:, replica, first])
            first += len(agreed)
        # As 64-bit numbers if those of any stack are.
        wide = any(exchange.ids.dtype == tf.int64 for exchange in exchanges)
        asked = self._exchange(
            [exchange.asks(tf.int64 if wide else tf.int32) for exchange in exchanges],
            [exchange.asked_size for exchange in exchanges],
        )
        for exchange, of_all in zip(exchanges, asked, strict=True):
            exchange.receive(of_all, replica)

    def _exchange(self, pieces: list[tf.Tensor], sizes: list[tf.Tensor]) -> list[tf.Tensor]:
        """Exchanges pieces [world, size] of several stacks at once."""
        if len(pieces) < 2:
            return [self._all_to_all.exchange(piece) for piece in pieces]
        received = self._all_to_all.exchange(tf.concat(pieces, 1))
        return tf.split(received, tf.stack(sizes), axis=1, num=len(sizes))
