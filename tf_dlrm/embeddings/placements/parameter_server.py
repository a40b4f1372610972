"""Tables cut over parameter servers, which workers read and update each at its own pace."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import tensorflow as tf

from tf_dlrm.embeddings.bags import Bags
from tf_dlrm.embeddings.config import FeatureConfig, tables_of
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
from tf_dlrm.embeddings.placements.sharded_stack import ShardedStack, shard_tables
from tf_dlrm.embeddings.placements.sharded_table import ShardedTable
from tf_dlrm.embeddings.plan import DATA_PARALLEL, Plan
from tf_dlrm.embeddings.stack import Piece, Stack
from tf_dlrm.embeddings.tables import TableSet, update_counter


class ParameterServerPlacement:
    """Each parameter server holds some tables, or some rows or columns of them.

    A worker makes the ids of its batch unique, gathers their rows from the servers, and sends the
    summed gradients back; each server updates its own rows. Workers do not wait for each other:
    between a worker's lookup and its update another one may have updated the same rows, and where
    two update a row at the same moment, one of the updates may be lost in part. With one worker
    the numbers are those of one device.

    References:
        Li et al., Scaling Distributed Machine Learning with the Parameter Server, OSDI 2014.

    Attributes:
        tables: The tables as logical [vocabulary_size, dim] tensors.
        stacks: The parts of tables, by width and optimizer.
    """

    checks_ids_on_host = False

    def __init__(
        self,
        features: Sequence[FeatureConfig],
        plan: Plan,
        servers: Sequence[str],
        seed: int = 0,
    ) -> None:
        """Creates the tables, each piece on its server, and draws their first values.

        Args:
            features: The features and their tables.
            plan: Where each table is; its devices are the servers.
            servers: The device of each server.
            seed: Seed of the first values.

        Raises:
            ValueError: If the plan does not fit the features or the servers.
        """
        if plan.devices != len(servers):
            raise ValueError(
                f"The plan is for {plan.devices} device(s), but there are {len(servers)} parameter "
                "server(s)."
            )
        copied = [name for name, t in plan.tables.items() if t.sharding == DATA_PARALLEL]
        if copied:
            raise ValueError(
                f"The plan copies table '{copied[0]}' to all devices, but parameter servers have "
                "nothing that would keep copies equal; place it table_wise or row_wise."
            )

        numbers = itertools.count()

        def make_stack(server: int, pieces: Sequence[Piece]) -> Stack:
            with tf.device(servers[server]):
                return Stack(pieces, seed, f"rows_{next(numbers)}")

        self.stacks = shard_tables(features, plan, make_stack)
        self._features = [feature.name for feature in features]
        tables = []
        for config in tables_of(features):
            held = [h for s in self.stacks for h in s.held if h.piece.table.name == config.name]
            tables.append(ShardedTable(config, held, copied=False))
        with tf.device(servers[0]):
            counter = update_counter()
        made = [stack for s in self.stacks for stack in s.stacks if stack is not None]
        self.tables = TableSet(
            tables,
            [variable for stack in made for variable in stack.variables],
            (counter,),
            [stack.variable for stack in made],
        )

    def lookup(self, bags: Mapping[str, Bags]) -> Lookup:
        """See `Placement.lookup`; one gather for each stack and server."""
        vectors: dict[str, tf.Tensor] = {}
        residuals = []
        for stack in self.stacks:
            batch = batch_of(stack, bags)
            unique, index = tf.unique(batch.ids)
            rows = tf.gather(gather_directly(stack, unique), index)
            vectors.update(batch.pool(rows))
            residuals.append((batch, unique, index, rows))
        joined = join_columns(self.stacks, self._features, vectors)
        return Lookup(joined, bags, residuals)

    def weight_gradients(
        self, lookup: Lookup, gradients: Mapping[str, tf.Tensor]
    ) -> dict[str, tf.Tensor]:
        """See `Placement.weight_gradients`."""
        pulled = Pulled(lookup, gradients)
        return sum_by_feature(
            weight_gradients(stack, batch, rows, pulled)
            for stack, (batch, _, _, rows) in zip(self.stacks, lookup.residuals, strict=True)
        )

    def update(self, pulled: Sequence[Pulled]) -> None:
        """See `Placement.update`; one update for each stack and server.

        Each worker looks at its own gradients only.
        """
        finite = all_finite(pulled)
        step = self.tables.updates.read_value()
        for k, stack in enumerate(self.stacks):
            of_stack = [(p, pulled_to(stack, p)) for p in pulled]
            own = [(p, parts) for p, parts in of_stack if parts.gradients]
            if not own:
                continue
            whole, parts = own[0]
            if len(own) == 1 and len(parts.gradients) == len(stack.views):
                batch, unique, index, _ = whole.lookup.residuals[k]
                gradients = batch.unpool(parts.gradients)
            else:
                ids, gradients = rows_and_gradients(
                    [parts for _, parts in own], stack.features, stack.rows, stack.dim
                )
                unique, index = tf.unique(ids)
            summed = tf.math.unsorted_segment_sum(gradients, index, tf.size(unique))
            unique, summed = none_unless(finite, unique, summed)
            _update_servers(stack, unique, summed, step)
        self.tables.count_update(finite)


def _update_servers(
    stack: ShardedStack, unique: tf.Tensor, gradients: tf.Tensor, step: tf.Tensor
) -> None:
    """Has each server update those of the different rows `unique` that it holds."""
    count = len(stack.stacks)
    route = stack.route(unique)
    rows = tf.dynamic_partition(route.row, route.device, count)
    values = tf.dynamic_partition(gradients, route.device, count)
    for own, own_rows, own_values in zip(stack.stacks, rows, values, strict=True):
        if own is not None:
            with tf.device(own.variable.device):
                own.optimizer.apply(
                    own.variable, own.slots, own_rows, own_values, step, shared=True
                )
