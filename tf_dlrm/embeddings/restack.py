"""Puts tensors together, some of which one tensor was taken apart into just before.

In a graph, what `tf.unstack` has made is found where it came from: all of it is that tensor itself,
and some of it is one gather. In a small request each operation costs, and each of its outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import tensorflow as tf


def restack(tensors: Sequence[tf.Tensor], axis: int) -> tf.Tensor:
    """Does as `tf.stack`.

    Args:
        tensors: Tensors of equal shapes.
        axis: 0 or 1.
    """
    parts, single = [], []
    for count, part in runs(tensors, axis):
        if count == 1:
            single.append(part)
            continue
        if single:
            parts.append(_stacked(single, axis))
            single = []
        parts.append(part)
    if single:
        parts.append(_stacked(single, axis))
    return parts[0] if len(parts) == 1 else tf.concat(parts, axis)


def _stacked(tensors: Sequence[tf.Tensor], axis: int) -> tf.Tensor:
    return tf.expand_dims(tensors[0], axis) if len(tensors) == 1 else tf.stack(tensors, axis)


def side_by_side(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Does as `tf.concat` along axis 1, of tensors [batch, width]."""
    parts = []
    for count, part in runs(tensors, 1):
        parts.append(part if count == 1 else tf.reshape(part, [-1, count * part.shape[2]]))
    return parts[0] if len(parts) == 1 else tf.concat(parts, 1)


def runs(tensors: Sequence[tf.Tensor], axis: int) -> Iterator[tuple[int, tf.Tensor]]:
    """Yields neighbours that were unstacked from one tensor as one, others alone.

    Args:
        tensors: The tensors.
        axis: As of `restack`.

    Yields:
        How many tensors it is; and one of them, or these stacked along the axis.
    """
    neighbours: list[list[tf.Tensor]] = []
    for tensor in tensors:
        if neighbours and _unstacks(tensor, axis) and tensor.op is neighbours[-1][0].op:
            neighbours[-1].append(tensor)
        else:
            neighbours.append([tensor])
    for run in neighbours:
        if len(run) == 1:
            yield 1, run[0]
            continue
        source = run[0].op.inputs[0]
        places = [tensor.value_index for tensor in run]
        whole = places == list(range(len(run[0].op.outputs)))
        yield len(run), source if whole else tf.gather(source, places, axis=axis)


def _unstacks(tensor: tf.Tensor, axis: int) -> bool:
    """Returns whether a tensor was made by `tf.unstack` along an axis."""
    if not tf.is_symbolic_tensor(tensor) or tensor.op.type != "Unpack":
        return False
    return bool(tensor.op.get_attr("axis") == axis)
