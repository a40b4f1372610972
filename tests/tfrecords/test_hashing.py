"""The hash on which the order of rows and the hidden teacher rest: it must never change."""

import numpy as np
import tensorflow as tf

from tfrecords.hashing import hash_number, hash_numbers, hash_tensor, unit_interval

_ODD = [0, 1, -1, 12345, 2**31, -(2**63), 2**63 - 1]


def _by_hand(*parts):
    state = 0
    for part in parts:
        x = ((state ^ (part % 2**64)) + 0x9E3779B97F4A7C15) % 2**64
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        state = x ^ x >> 31
    return state


def test_the_numbers_of_splitmix64():
    # The first that the generator of this name gives for the seeds 0 and 1234567.
    assert hash_number(0) == _by_hand(0) == 0xE220A8397B1DCDAF
    assert hash_number(1234567) == _by_hand(1234567) == 6457827717110365317


def test_equal_to_python_numbers():
    for parts in ((3, 0), (0, 3), (-7, 2**70 + 5, 1), (2**63,)):
        assert hash_number(*parts) == _by_hand(*parts)
    got = hash_numbers(-9, np.array(_ODD, np.int64)[:, None], 2, np.arange(3))
    assert got.tolist() == [[_by_hand(-9, odd, 2, k) for k in range(3)] for odd in _ODD]


def test_equal_in_tensorflow():
    got = hash_tensor(77, tf.constant(_ODD, tf.int64))
    assert got.numpy().tolist() == [_by_hand(77, odd) for odd in _ODD]
    wanted = [(_by_hand(77, odd) >> 40) / 2**24 for odd in _ODD]
    assert unit_interval(got).numpy().tolist() == wanted
