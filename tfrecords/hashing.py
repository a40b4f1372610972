"""A hash of whole numbers that is the same in every version of NumPy and TensorFlow.

The order of the rows and the effects of the random source's hidden teacher are functions of it, so
that they never change under a user who upgrades a library. It is the finaliser of SplitMix64
(Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014), once in
NumPy and once in TensorFlow.
"""

from __future__ import annotations

import numpy as np

from tfrecords.lazy import tf

_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
_MASK = 2**64 - 1


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(_FIRST)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(_SECOND)
    return x ^ (x >> np.uint64(31))


def hash_numbers(*parts: int | np.ndarray) -> np.ndarray:
    """Hashes whole numbers, element by element, parts broadcast against each other.

    Args:
        *parts: Python numbers of any size (taken modulo 2**64) or arrays of integers.

    Returns:
        uint64 array of the broadcast shape, at least one-dimensional.
    """
    state: np.ndarray = np.zeros(1, np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            if isinstance(part, int):
                part = np.array([part & _MASK], np.uint64)
            state = _mix((state ^ part.astype(np.uint64)) + np.uint64(_GOLDEN))
    return state


def hash_number(*parts: int) -> int:
    """`hash_numbers` of plain numbers, as a plain number in [0, 2**64)."""
    return int(hash_numbers(*parts)[0])


def hash_tensor(key: int, values: tf.Tensor) -> tf.Tensor:
    """Equal to `hash_numbers(key, values)`, computed in the graph.

    Args:
        key: A Python number.
        values: int64 tensor.

    Returns:
        uint64 tensor of the same shape.
    """
    state = tf.constant(hash_number(key), tf.uint64)
    x = tf.bitwise.bitwise_xor(state, tf.cast(values, tf.uint64)) + tf.constant(_GOLDEN, tf.uint64)
    x = tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, tf.constant(30, tf.uint64)))
    x = x * tf.constant(_FIRST, tf.uint64)
    x = tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, tf.constant(27, tf.uint64)))
    x = x * tf.constant(_SECOND, tf.uint64)
    return tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, tf.constant(31, tf.uint64)))


def unit_interval(hashed: tf.Tensor) -> tf.Tensor:
    """Maps uint64 hashes to float32 in [0, 1), by their 24 highest bits."""
    return tf.cast(tf.bitwise.right_shift(hashed, tf.constant(40, tf.uint64)), tf.float32) / 2.0**24
