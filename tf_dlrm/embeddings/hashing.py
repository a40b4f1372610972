"""The hash of ids to buckets, the same in every version of TensorFlow.

Rows of trained tables are found by it, so it must never change. It is the finaliser of SplitMix64
(Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
"""

import tensorflow as tf

_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB


def hash_ids(key: int, ids: tf.Tensor) -> tf.Tensor:
    """Returns uint64 hashes of ids.

    Args:
        key: Which hash: a Python number, taken modulo 2**64.
        ids: int64, of any shape, which is that of the result.
    """
    state = _mixed(tf.constant((key + _GOLDEN) % 2**64, tf.uint64))
    return _mixed(tf.bitwise.bitwise_xor(state, tf.cast(ids, tf.uint64)) + _number(_GOLDEN))


def _mixed(x: tf.Tensor) -> tf.Tensor:
    x = _shifted(x, 30) * _number(_FIRST)
    x = _shifted(x, 27) * _number(_SECOND)
    return _shifted(x, 31)


def _shifted(x: tf.Tensor, bits: int) -> tf.Tensor:
    return tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, _number(bits)))


def _number(value: int) -> tf.Tensor:
    return tf.constant(value, tf.uint64)
