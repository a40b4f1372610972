"""All tables on one device, in the process that looks into them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from tf_dlrm.embeddings.bags import Bags
from tf_dlrm.embeddings.block import StackedFeature
from tf_dlrm.embeddings.config import FeatureConfig
from tf_dlrm.embeddings.kernels import native
from tf_dlrm.embeddings.kernels.choice import are_allowed
from tf_dlrm.embeddings.lookup import RowGradients, RowIds, Tables, logical_tables, none_unless
from tf_dlrm.embeddings.plan import whole_plan
from tf_dlrm.embeddings.stack import Stack, make_stacks, on_devices


class LocalPlacement(Tables):
    """Tables on one device, those of equal dim and optimizer in one variable.

    Attributes:
        tables: The tables as logical [vocabulary_size, dim] tensors.
        stacks: The variables that hold them.
    """

    def __init__(self, features: Sequence[FeatureConfig], seed: int = 0) -> None:
        """Creates the tables and draws their first values.

        Args:
            features: The features and their tables.
            seed: Seed of the first values.

        Raises:
            ValueError: If the features contradict each other.
        """
        stacks = make_stacks(features, whole_plan(features), on_devices({0: None}))
        super().__init__(features, stacks, logical_tables(features, stacks, seed))

    def read(self, wanted: Sequence[RowIds]) -> tuple[list[tf.Tensor], list[Any]]:
        """See `Tables.read`."""
        return [tf.gather(stack.on().variable, ids) for stack, ids in wanted], [None] * len(wanted)

    def write(
        self, updates: Sequence[RowGradients], step: tf.Tensor, finite: tf.Tensor, kernels: bool
    ) -> tf.Tensor:
        """See `Tables.write`."""
        for stack, ids, gradients, _ in updates:
            ids, gradients = none_unless(finite, ids, gradients)
            stack.on().update(ids, gradients, step, kernels)
        return finite

    def pooled(self, stack: Stack, bags: Mapping[str, Bags]) -> dict[str, tf.Tensor] | None:
        """See `Tables.pooled`: the kernels."""
        shard = stack.on()
        if not are_allowed() or not native.are_used(shard.optimizer, shard.variable.device):
            return None
        if len({id(entry.batch) for entry in bags.values()}) > 1:
            return None
        return native.lookup(shard.variable, stack.features, bags)

    def update_pooled(
        self,
        stack: Stack,
        features: Sequence[StackedFeature],
        bags: Mapping[str, Bags],
        gradients: Mapping[str, tf.Tensor],
        step: tf.Tensor,
        finite: tf.Tensor,
    ) -> None:
        """See `Tables.update_pooled`."""
        shard = stack.on()
        native.update(
            shard.optimizer,
            shard.variable,
            shard.slots,
            features,
            bags,
            gradients,
            step,
            finite,
        )
