"""LRU stack distances of a trace of ids.

The stack distance of an access is the position of its id in a stack that holds every id seen so
far, the most recently used on top: 1 for an immediate repetition, 0 for an id that is new. It is
Algorithm 1 of the DLRM paper (Naumov et al. 2019, arXiv 1906.00091, section 4.2), worked out for
all accesses at once instead of by searching a stack.
"""

from __future__ import annotations

import numpy as np

from tfrecords.errors import DataError


def as_trace(ids: np.ndarray) -> np.ndarray:
    """The ids as uint64 `[accesses]`.

    Raises:
        DataError: If the array has other than one dimension, is not of whole numbers, or holds a
            negative one.
    """
    ids = np.asarray(ids)
    if ids.ndim != 1:
        raise DataError(f"A trace must be one-dimensional (shape [accesses]), not {ids.shape}.")
    if ids.size and not np.issubdtype(ids.dtype, np.integer):
        raise DataError(f"A trace must hold whole numbers, not values of type {ids.dtype}.")
    if ids.size and ids.min() < 0:
        position = int(np.argmax(ids < 0))
        raise DataError(
            f"Access {position} of the trace is {ids[position]}; ids must lie in [0, 2**64)."
        )
    return ids.astype(np.uint64)


def stack_distances(ids: np.ndarray) -> np.ndarray:
    """The stack distance of every access, in O(n log n).

    With `prev(t)` the access before `t` to the same id, the ids used since then are those whose
    first use after `prev(t)` lies before `t`: the `s < t` with `prev(s) < prev(t)`, less the
    `prev(t) + 1` accesses up to `prev(t)`, for which that holds as well.

    Args:
        ids: Whole numbers of at least 0, `[accesses]`.

    Returns:
        int64 `[accesses]`: 0 where the id is new, else at least 1.

    Raises:
        DataError: If `ids` is no trace (see `as_trace`).
    """
    ids = as_trace(ids)
    previous = _previous(ids)
    repeated = np.flatnonzero(previous >= 0)
    distances: np.ndarray = np.zeros(len(ids), np.int64)
    if len(repeated):
        before = previous[repeated]
        # An access is the previous one of at most one other, so ranks number them 0, 1, 2, ...
        used: np.ndarray = np.zeros(len(ids), np.int64)
        used[before] = 1
        ranks = (np.cumsum(used) - 1)[before]
        new_before = np.cumsum(previous < 0)[repeated]
        distances[repeated] = new_before + _smaller_before(ranks) - before
    return distances


def _previous(ids: np.ndarray) -> np.ndarray:
    """The access before to the same id, -1 if there is none."""
    order = np.argsort(ids, kind="stable")
    in_order = ids[order]
    same = in_order[1:] == in_order[:-1]
    previous: np.ndarray = np.full(len(ids), -1, np.int64)
    previous[order[1:][same]] = order[:-1][same]
    return previous


def _smaller_before(permutation: np.ndarray) -> np.ndarray:
    """For each element of a permutation of `0..n-1`, how many before it are smaller.

    Radix sort from the highest bit down: where two elements part, the one with the bit set learns
    how many of its group, before it, have it clear. In a permutation, groups are full but for the
    last, so where a group and its upper half begin follows from the value alone.
    """
    count = len(permutation)
    values = permutation
    element: np.ndarray = np.arange(count)
    place: np.ndarray = np.arange(count)
    smaller: np.ndarray = np.zeros(count, np.int64)
    for bit in reversed(range(max(count - 1, 0).bit_length())):
        is_set = (values >> bit) & 1
        clear_before = np.cumsum(1 - is_set)
        start = (values >> (bit + 1)) << (bit + 1)
        # Clear bits before the group: half of each of the full groups before it.
        clear_before -= start >> 1
        chosen = is_set.astype(bool)
        smaller[element[chosen]] += clear_before[chosen]
        target = np.where(chosen, place + (1 << bit) - clear_before, start + clear_before - 1)
        next_values, next_element = np.empty_like(values), np.empty_like(element)
        next_values[target] = values
        next_element[target] = element
        values, element = next_values, next_element
    return smaller
