"""All tables on one device, in the process that looks into them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tf_dlrm.embeddings import native
from tf_dlrm.embeddings.bags import Bags
from tf_dlrm.embeddings.config import FeatureConfig
from tf_dlrm.embeddings.lookup import Tables, logical_tables
from tf_dlrm.embeddings.plan import whole_plan
from tf_dlrm.embeddings.requests import Asked, Used, joined, none_unless
from tf_dlrm.embeddings.stack import Stack, make_stacks, on_devices
from tf_dlrm.kernels.use import are_allowed


class LocalPlacement(Tables):
    """Tables on one device, those of equal dim and optimizer in one variable."""

    def __init__(self, features: Sequence[FeatureConfig], seed: int = 0) -> None:
        """Creates the tables and draws their first values.

        Raises:
            ValueError: If the features contradict each other.
        """
        stacks = make_stacks(features, whole_plan(features), on_devices({0: None}))
        super().__init__(features, stacks, logical_tables(features, stacks, seed))

    def pools(self, stack: Stack, bags: Mapping[str, Bags]) -> Collection[str]:
        """See `Tables.pools`: all, where there are kernels."""
        shard = stack.on()
        kernels = are_allowed() and native.are_used(shard.optimizer, shard.variable.device)
        return bags if kernels else ()

    def read(self, asked: Sequence[Asked]) -> list[tuple[Any, Any]]:
        """See `Tables.read`; one operation for each stack."""
        found = []
        for stack, features, bags, batch in asked:
            table = stack.on().variable
            if batch is None:
                found.append((native.lookup(table, features, bags), None))
            else:
                found.append((tf.gather(table, batch.ids), None))
        return found

    def write(
        self, used: Sequence[Sequence[Used]], step: tf.Tensor, finite: tf.Tensor, kernels: bool
    ) -> tf.Tensor:
        """See `Tables.write`; one operation for each stack."""
        for own in used:
            (stack, features, bags, batch), gradients, _ = own[0]
            shard = stack.on()
            if len(own) == 1 and batch is None:
                native.update(
                    shard.optimizer,
                    shard.variable,
                    shard.slots,
                    [f for f in features if f.name in gradients],
                    bags,
                    gradients,
                    step,
                    finite,
                )
            else:
                ids, of_rows = none_unless(finite, *joined([part.of_rows() for part in own]))
                shard.update(ids, of_rows, step, kernels)
        return finite
