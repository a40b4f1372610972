"""Lookups in sharded stacks by a process that can reach every device of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tensorflow as tf

from tf_dlrm.embeddings.bags import Bags
from tf_dlrm.embeddings.placements.sharded_stack import ShardedStack
from tf_dlrm.embeddings.pooling import StackBatch


def batch_of(stack: ShardedStack, bags: Mapping[str, Bags]) -> StackBatch:
    """Returns the bags of the features that look into a stack."""
    of_parts = {view.name: bags[view.feature] for view in stack.views}
    return StackBatch(stack.features, of_parts, stack.rows, stack.dim)


def gather_directly(stack: ShardedStack, ids: tf.Tensor) -> tf.Tensor:
    """Gathers rows of a sharded stack from devices that this process can reach.

    Args:
        stack: The stack.
        ids: int32 or int64 tensor [n] of its rows.

    Returns:
        float32 [n, dim].
    """
    if stack.data_parallel:
        return tf.gather(stack.on(0).variable, ids)
    route = stack.route(ids)
    count = len(stack.stacks)
    rows = tf.dynamic_partition(route.row, route.device, count)
    places = tf.dynamic_partition(tf.range(tf.size(ids)), route.device, count)
    found = []
    for own, wanted in zip(stack.stacks, rows, strict=True):
        if own is None:
            found.append(tf.zeros([0, stack.dim]))
            continue
        with tf.device(own.variable.device):
            found.append(tf.gather(own.variable, wanted))
    return tf.ensure_shape(tf.dynamic_stitch(places, found), [None, stack.dim])


def columns(gradient: tf.Tensor, first: int, count: int) -> tf.Tensor:
    """Returns `count` columns of a gradient [batch, dim] from `first` on."""
    if count == gradient.shape[1]:
        return gradient
    return gradient[:, first : first + count]


def join_columns(
    stacks: Sequence[ShardedStack], features: Sequence[str], parts: Mapping[str, tf.Tensor]
) -> dict[str, tf.Tensor]:
    """Puts the columns of each feature together.

    Args:
        stacks: All stacks of a placement.
        features: Names of all features.
        parts: For each view of each stack, float32 [batch, columns].

    Returns:
        For each feature, float32 [batch, dim].
    """
    views = sorted((view for stack in stacks for view in stack.views), key=lambda v: v.first_column)
    found: dict[str, list[tf.Tensor]] = {name: [] for name in features}
    for view in views:
        found[view.feature].append(parts[view.name])
    return {
        name: pieces[0] if len(pieces) == 1 else tf.concat(pieces, 1)
        for name, pieces in found.items()
    }
