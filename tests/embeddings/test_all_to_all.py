"""Sizes of exchanges between processes; tests/distributed has real ones."""

import tensorflow as tf

from tf_dlrm.embeddings.stores.all_to_all import _rounded_up


def test_sizes_are_rounded_up_a_little_to_few_different_ones():
    rounded = _rounded_up(tf.range(5000)).numpy().tolist()
    assert rounded[0] == 1  # TensorFlow can't exchange nothing
    for size, padded in enumerate(rounded):
        assert max(size, 1) <= padded <= max(1.25 * size, 1), size
    assert rounded == sorted(rounded)
    assert len(set(rounded)) < 9 * 13  # eight for each power of two
    large = 2**30 + 12345
    assert large <= int(_rounded_up(tf.constant(large))) <= large * 1.13
