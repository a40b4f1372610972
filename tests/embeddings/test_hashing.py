import numpy as np
import tensorflow as tf

from tf_dlrm.embeddings.hashing import hash_ids
from tfrecords.hashing import hash_numbers


def test_is_the_hash_of_the_data_sets():
    numbers = np.random.default_rng(0)
    least, most = np.iinfo(np.int64).min, np.iinfo(np.int64).max
    ids = np.concatenate(
        [np.arange(-3, 1000), numbers.integers(least, most, 100_000), [least, most]]
    )
    for key in [
        0,
        1,
        7,
        2**63,
        2**64 - 1,
        2**64 + 5,
        -1,
        *map(int, numbers.integers(most, size=9)),
    ]:
        found = hash_ids(key, tf.constant(ids))
        assert found.dtype == tf.uint64
        np.testing.assert_array_equal(found, hash_numbers(key, ids))


def test_has_the_values_that_trained_tables_were_made_with():
    found = tf.function(hash_ids)(3, tf.constant([[0, 1], [-1, 12345]], tf.int64)).numpy().tolist()
    assert found == [
        [13604808898340030615, 17027085370592858547],
        [4722581856061867462, 12604696713197859601],
    ]
