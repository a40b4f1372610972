"""What was unstacked is put together again without work, and all else as `tf.stack` does."""

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.embeddings.restack import restack, side_by_side

WHOLE = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
OTHER = -np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)


def _pieces(case, axis):
    """The pieces of a case, along axis 1 of [2, 3, 4], and what they are as one array."""
    mine, others = tf.unstack(tf.constant(WHOLE), axis=axis), tf.unstack(OTHER, axis=axis)
    chosen = {
        "all": mine,
        "some": [mine[1], mine[0]],
        "twice": [mine[0], mine[1], mine[0]],
        "between": [2 * mine[0], mine[0], mine[1], 3 * mine[1], 4 * mine[0]],
        "two": [mine[0], mine[1], others[0], others[1]],
        "one": [mine[1]],
        "none": [2 * mine[0], others[1] + 1],
    }
    return chosen[case]


CASES = ["all", "some", "twice", "between", "two", "one", "none"]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("axis", [0, 1])
def test_is_what_stack_is(case, axis):
    expected = tf.stack(_pieces(case, axis), axis)  # eagerly, where nothing is known of unstack
    in_graph = tf.function(lambda: restack(_pieces(case, axis), axis))()
    np.testing.assert_array_equal(in_graph, expected)
    np.testing.assert_array_equal(restack(_pieces(case, axis), axis), expected)


@pytest.mark.parametrize("case", CASES)
def test_side_by_side_is_what_concat_is(case):
    expected = tf.concat(_pieces(case, 1), 1)
    np.testing.assert_array_equal(tf.function(lambda: side_by_side(_pieces(case, 1)))(), expected)
    np.testing.assert_array_equal(side_by_side(_pieces(case, 1)), expected)


def test_another_axis_is_another_stack():
    def turned():
        return restack(tf.unstack(tf.constant(np.ones((2, 2)) * [[1], [2]]), axis=0), 1)

    np.testing.assert_array_equal(tf.function(turned)(), [[1, 2], [1, 2]])


@pytest.mark.parametrize("axis", [0, 1])
def test_nothing_is_taken_apart(axis):
    graph = tf.function(
        lambda x: restack(tf.unstack(x, axis=axis), axis),
        input_signature=[tf.TensorSpec([2, 2, 4])],
    ).get_concrete_function()
    assert graph.outputs[0].op.inputs[0].op.type == "Placeholder"  # behind the function's identity
