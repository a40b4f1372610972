"""Tables cut over parameter servers, which workers read and update each at its own pace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tf_dlrm.embeddings.config import FeatureConfig
from tf_dlrm.embeddings.lookup import Tables, logical_tables
from tf_dlrm.embeddings.plan import DATA_PARALLEL, Plan
from tf_dlrm.embeddings.requests import Asked, Used, joined, none_unless
from tf_dlrm.embeddings.stack import make_stacks, on_devices
from tf_dlrm.embeddings.tables import update_counter


class ParameterServerPlacement(Tables):
    """Each parameter server holds some tables, or some rows or columns of them.

    A worker makes the ids of its batch unique, gathers their rows from the servers, and sends the
    summed gradients back; each server updates its own rows. Workers do not wait for each other:
    between a worker's lookup and its update another one may have updated the same rows, and where
    two update a row at the same moment, one of the updates may be lost in part. With one worker
    the numbers are those of one device. Each worker looks at its own gradients only, whether they
    are finite.

    References:
        Li et al., Scaling Distributed Machine Learning with the Parameter Server, OSDI 2014.
    """

    def __init__(
        self,
        features: Sequence[FeatureConfig],
        plan: Plan,
        servers: Sequence[str],
        seed: int = 0,
    ) -> None:
        """Creates the tables, each block on its server, and draws their first values.

        The plan's devices are the servers; `servers` has the name of each one's device.

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
        stacks = make_stacks(features, plan, on_devices(dict(enumerate(servers))))
        with tf.device(servers[0]):
            counter = update_counter()
        super().__init__(features, stacks, logical_tables(features, stacks, seed, [counter]))

    def read(self, asked: Sequence[Asked]) -> list[tuple[Any, Any]]:
        """See `Tables.read`; one gather for each stack and server."""
        found = []
        for own in asked:
            unique = tf.unique(own.ids)
            found.append((tf.gather(own.stack.gather(unique.y), unique.idx), unique))
        return found

    def write(
        self, used: Sequence[Sequence[Used]], step: tf.Tensor, finite: tf.Tensor, kernels: bool
    ) -> tf.Tensor:
        """See `Tables.write`; each server updates those of the different rows that it holds."""
        del kernels
        for own in used:
            stack = own[0].asked.stack
            ids, gradients = joined([part.of_rows() for part in own])
            as_read = len(own) == 1 and own[0].is_whole
            unique, index = own[0].residual if as_read else tf.unique(ids)
            summed = tf.math.unsorted_segment_sum(gradients, index, tf.size(unique))
            unique, summed = none_unless(finite, unique, summed)
            route = stack.route(unique)
            count = len(stack.shards)
            rows_of = tf.dynamic_partition(route.row, route.device, count)
            values_of = tf.dynamic_partition(summed, route.device, count)
            for shard, rows, values in zip(stack.shards, rows_of, values_of, strict=True):
                if shard is not None:
                    with tf.device(shard.variable.device):
                        shard.optimizer.apply(
                            shard.variable, shard.slots, rows, values, step, shared=True
                        )
        return finite
