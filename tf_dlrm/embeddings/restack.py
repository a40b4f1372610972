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
    for run, together in _runs(tensors, axis):
        if together is None:
            single += run
            continue
        if single:
            parts.append(tf.stack(single, axis))
            single = []
        parts.append(together)
    if single:
        parts.append(tf.stack(single, axis))
    return parts[0] if len(parts) == 1 else tf.concat(parts, axis)


def side_by_side(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Does as `tf.concat` along axis 1, of tensors [batch, width]."""
    parts = []
    for run, together in _runs(tensors, 1):
        if together is None:
            parts += run
        else:
            parts.append(tf.reshape(together, [-1, len(run) * run[0].shape[1]]))
    return parts[0] if len(parts) == 1 else tf.concat(parts, 1)


def _runs(
    tensors: Sequence[tf.Tensor], axis: int
) -> Iterator[tuple[list[tf.Tensor], tf.Tensor | None]]:
    """Yields neighbours that came from one tensor, with these as one tensor; others alone."""
    runs: list[list[tf.Tensor]] = []
    for tensor in tensors:
        if runs and _unstacks(tensor, axis) and tensor.op is runs[-1][0].op:
            runs[-1].append(tensor)
        else:
            runs.append([tensor])
    for run in runs:
        if len(run) == 1:
            yield run, None
            continue
        source = run[0].op.inputs[0]
        places = [tensor.value_index for tensor in run]
        whole = places == list(range(len(run[0].op.outputs)))
        yield run, source if whole else tf.gather(source, places, axis=axis)


def _unstacks(tensor: tf.Tensor, axis: int) -> bool:
    """Returns whether a tensor was made by `tf.unstack` along an axis."""
    if not tf.is_symbolic_tensor(tensor) or tensor.op.type != "Unpack":
        return False
    return bool(tensor.op.get_attr("axis") == axis)
