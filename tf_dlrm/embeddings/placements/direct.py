"""Lookups in sharded stacks by a process that can reach every device of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import tensorflow as tf

from tf_dlrm.embeddings.bags import Bags
from tf_dlrm.embeddings.placements.placement import Lookup, Pulled
from tf_dlrm.embeddings.placements.sharded_stack import ShardedStack
from tf_dlrm.embeddings.pooling import StackBatch


def batch_of(
    stack: ShardedStack, bags: Mapping[str, Bags], without: Collection[str] = ()
) -> StackBatch:
    """Returns the bags of the features that look into a stack, but for some views of it."""
    of_parts = {v.name: bags[v.feature] for v in stack.views if v.name not in without}
    features = [feature for feature in stack.features if feature.name in of_parts]
    return StackBatch(features, of_parts, stack.rows, stack.dim)


def pulled_to(stack: ShardedStack, pulled: Pulled) -> Pulled:
    """Returns what a backward pass brings back to the parts of features that are in a stack."""
    used = [view for view in stack.views if view.feature in pulled.gradients]
    bags = {view.name: pulled.lookup.bags[view.feature] for view in used}
    gradients = {
        view.name: columns(pulled.gradients[view.feature], view.first_column, view.columns)
        for view in used
    }
    return Pulled(Lookup({}, bags, None), gradients)


def weight_gradients(
    stack: ShardedStack, batch: StackBatch, rows: tf.Tensor, pulled: Pulled
) -> dict[str, tf.Tensor]:
    """Returns what the rows of one stack give to the gradients of weights.

    Args:
        stack: The stack.
        batch: What `batch_of` returned.
        rows: float32 [n, dim], the rows of its ids.
        pulled: The lookup, and what came back to it.

    Returns:
        For each used feature that had weights, a summand [n] of their gradient.
    """
    lookup, gradients = pulled
    if all(lookup.bags[view.feature].weights is None for view in stack.views):
        return {}
    parts = {}
    for view in stack.views:
        gradient = gradients.get(view.feature)
        if gradient is None:
            gradient = tf.zeros_like(lookup.vectors[view.feature])
        parts[view.name] = columns(gradient, view.first_column, view.columns)
    of_parts = batch.weight_gradients(rows, parts)
    return sum_by_feature(
        {view.feature: of_parts[view.name]}
        for view in stack.views
        if view.name in of_parts and view.feature in gradients
    )


def sum_by_feature(parts: Iterable[Mapping[str, tf.Tensor]]) -> dict[str, tf.Tensor]:
    """Adds up what several stacks, or parts of one, give to the same features."""
    found: dict[str, tf.Tensor] = {}
    for part in parts:
        for name, value in part.items():
            found[name] = found[name] + value if name in found else value
    return found


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
