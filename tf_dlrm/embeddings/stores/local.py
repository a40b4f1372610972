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
from tf_dlrm.embeddings.requests import (
    RowGradients,
    RowIds,
    StoreBags,
    StoreGradients,
    joined,
    none_unless,
)
from tf_dlrm.embeddings.stack import Stack, make_stacks, on_devices
from tf_dlrm.kernels.use import are_allowed


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

    def pools(self, stack: Stack, bags: Mapping[str, Bags]) -> Collection[str]:
        """See `Tables.pools`: all, where there are kernels."""
        shard = stack.on()
        kernels = are_allowed() and native.are_used(shard.optimizer, shard.variable.device)
        return bags if kernels else ()

    def read(
        self, wanted: Sequence[RowIds], pooled: Sequence[StoreBags]
    ) -> tuple[list[tuple[tf.Tensor, Any]], list[tuple[dict[str, tf.Tensor], Any]]]:
        """See `Tables.read`; one operation for each stack."""
        return (
            [(tf.gather(stack.on().variable, ids), None) for stack, ids in wanted],
            [
                (native.lookup(stack.on().variable, features, bags), None)
                for stack, features, bags in pooled
            ],
        )

    def write(
        self,
        rows: Sequence[RowGradients],
        pooled: Sequence[StoreGradients],
        step: tf.Tensor,
        finite: tf.Tensor,
        kernels: bool,
    ) -> tf.Tensor:
        """See `Tables.write`; one operation for each stack."""
        for stack in self.stacks:
            of_rows = [own for own in rows if own.stack is stack]
            of_bags = [own for own in pooled if own.stack is stack]
            shard = stack.on()
            if len(of_bags) == 1 and not of_rows:
                ((_, features, bags, gradients, _),) = of_bags
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
            elif of_rows or of_bags:
                found = joined([*of_rows, *(own.of_rows() for own in of_bags)])
                ids, gradient = none_unless(finite, found.ids, found.gradients)
                shard.update(ids, gradient, step, kernels)
        return finite
