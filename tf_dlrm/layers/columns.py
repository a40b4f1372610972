"""Columns of a matrix that come apart: what all rows share is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf


class Columns(NamedTuple):
    """Some columns of a matrix [rows, width].

    Attributes:
        values: Floats [rows, n]; or [1, n], statically, where all rows are alike.
        places: Which columns of the matrix they are.
    """

    values: tf.Tensor
    places: Sequence[int]


def is_shared(tensor: tf.Tensor) -> bool:
    """Returns whether one row stands for all, which is known before any row is."""
    return bool(tensor.shape[0] == 1)


def have_shared_rows(tensors: Sequence[tf.Tensor]) -> bool:
    """Returns whether some of the tensors have one row that stands for all rows of the others."""
    return len({is_shared(tensor) for tensor in tensors}) > 1


def repeated(tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Returns tensors [rows, n], those of one row repeated as often as the others have rows."""
    if not have_shared_rows(tensors):
        return list(tensors)
    rows = next(tf.shape(tensor)[0] for tensor in tensors if not is_shared(tensor))
    return [
        tf.broadcast_to(tensor, [rows, tensor.shape[1]]) if is_shared(tensor) else tensor
        for tensor in tensors
    ]
