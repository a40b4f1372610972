"""The operations of the kernels, called by hand: wrong arguments are errors, and touch nothing."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.ops import resource_variable_ops

from tf_dlrm.kernels.use import load


@pytest.fixture(scope="module")
def ops():
    return load()


def _variable(values):
    return resource_variable_ops.ResourceVariable(values)


def _arguments():
    """Two features of tables of 2 and 3 rows in one variable of 5, of which each is its number."""
    table = _variable(tf.reshape(tf.range(5.0), [5, 1]))
    return {
        "table": table.handle,
        "ids": [tf.constant([0, 1], tf.int64), tf.constant([2, 0], tf.int32)],
        "structures": [tf.constant([0, 1, 2], tf.int64)],
        "weights": [tf.constant([2.0, 3.0])],
        "batches": tf.constant([2, 2]),
        "hotness": [1, 0],
        "weighted": [False, True],
        "offsets": [0, 2],
        "sizes": [2, 3],
        "out_of_vocabulary": [-1, -1],
        "combiners": [0, 0],
        "names": ["a", "b"],
        "tables": ["s", "t"],
    }, table


_SLOT = {"kind": "Adagrad", "gradients": [tf.ones([2, 1])] * 2, "numbers": tf.ones(3)}


def _list(name, *values):
    message = f"must have 2 entries, one for each feature, but one has {len(values)}"
    return pytest.param({name: list(values)}, message, id=f"{name}-{len(values)}")


_LISTS = [
    _list("hotness", 1),
    _list("hotness", 1, 0, 1),
    _list("weighted", False),
    _list("offsets", 0),
    _list("sizes", 2),
    _list("out_of_vocabulary", -1),
    _list("combiners", 0, 0, 0),
    _list("names", "a"),
    _list("tables", "a"),
]
_WRONG = [
    # A table that is not inside its variable, whose rows would be somebody else's memory.
    ({"offsets": [0, 3]}, "Table t of feature b has 3 rows from row 3 on, but its variable has 5"),
    ({"sizes": [6, 3]}, "Table s of feature a has 6 rows from row 0 on, but its variable has 5"),
    ({"offsets": [0, 2**63 - 1]}, "Table t of feature b has 3 rows from row 9223372036854775807"),
    ({"sizes": [2, 2**63 - 1]}, "has 9223372036854775807 rows from row 2"),
    ({"offsets": [-1, 2]}, "Feature a cannot have .* a table of 2 rows from row -1"),
    ({"sizes": [-1, 3]}, "Feature a cannot have .* a table of -1 rows"),
    ({"out_of_vocabulary": [2, -1]}, "a table of 2 rows .* out-of-vocabulary row 2"),
    ({"out_of_vocabulary": [-2, -1]}, "out-of-vocabulary row -2"),
    ({"combiners": [0, 3]}, "Feature b cannot have hotness 0, combiner 3"),
    ({"combiners": [-1, 0]}, "Feature a cannot have hotness 1, combiner -1"),
    ({"hotness": [1, -2]}, "Feature b cannot have hotness -2"),
    ({"hotness": [0, 0]}, "There must be 2 structures and 1 weights, but there are 1 and 1"),
    ({"weighted": [True, True]}, "There must be 1 structures and 2 weights, but .* 1 and 1"),
    ({"weighted": [False, False]}, "There must be 1 structures and 0 weights, but .* 1 and 1"),
    ({"structures": []}, "There must be 1 structures and 1 weights, but there are 0 and 1"),
    # Products that would wrap around to the number of ids.
    (
        {"hotness": [2**62, 0]},
        "Feature a has 2 ids, but the batch has 2 rows of 4611686018427387904",
    ),
    ({"hotness": [2**63 - 1, 0]}, "Feature a has 2 ids, but the batch has 2 rows"),
    ({"batches": tf.constant([2])}, r"a batch for each of 2 features, but their shape is \[1\]"),
    ({"batches": tf.constant(2)}, r"a batch for each of 2 features, but their shape is \[\]"),
    ({"batches": tf.constant([[2], [2]])}, r"each of 2 features, but their shape is \[2,1\]"),
    ({"batches": tf.constant([2, 2, 2])}, r"each of 2 features, but their shape is \[3\]"),
    ({"batches": tf.constant([2, -2])}, "The batch of feature b cannot have -2 rows"),
    ({"batches": tf.constant([3, 2])}, "Feature a has 2 ids, but the batch has 3 rows of 1"),
    ({"batches": tf.constant([2, 3])}, "Feature b has 2 bags, but the batch has 3 rows"),
    (
        {"batches": tf.constant([2**31 - 1] * 2)},
        "Feature a has 2 ids, but the batch has 2147483647",
    ),
    ({"ids": [tf.zeros([2, 1], tf.int32)] * 2}, r"ids of feature a must be a vector, .* \[2,1\]"),
    ({"weights": [tf.ones(3)]}, "Feature b has 2 ids, but 3 weights"),
    *(
        (
            {"structures": [tf.constant(splits, dtype)]},
            "splits of feature b must ascend from 0 to 2",
        )
        for splits in ([0, 2, 1], [0, 3, 2], [0, -1, 2], [1, 1, 2], [0, 1, 2**31 - 1])
        for dtype in (tf.int32, tf.int64)
    ),
    ({"structures": [tf.constant([0, -(2**63), 2], tf.int64)]}, "must ascend from 0 to 2"),
    ({"structures": [tf.constant([0], tf.int64)]}, "Feature b has 0 bags, but the batch has 2"),
    ({"structures": [tf.zeros([0], tf.int64)]}, "Feature b has -1 bags, but the batch has 2"),
    *(
        ({"hotness": [1, -1], "structures": [tf.constant(bags, tf.int64)]}, message)
        for bags, message in (
            ([0, 2], "Feature b has an id of row 2, but the batch has 2"),
            ([-1, 0], "Feature b has an id of row -1, but the batch has 2"),
            ([2**62, 0], "Feature b has an id of row 4611686018427387904"),
            ([0, 1, 1], "Feature b has 2 ids, but 3 bags of ids"),
            ([], "Feature b has 2 ids, but 0 bags of ids"),
        )
    ),
    *(
        ({"ids": [tf.constant([0, number], tf.int64), tf.constant([2, 0])]}, f"the id {number} at")
        for number in (2, -1, 2**63 - 1, -(2**63))
    ),
    *(
        ({"ids": [tf.constant([0, 1]), tf.constant([number, 0])]}, f"the id {number} at row 0")
        for number in (3, -1, 2**31 - 1, -(2**31))
    ),
]


def test_more_gradients_than_can_be_numbered_are_refused(ops):
    arguments = {k: v * 2 if isinstance(v, list) else v for k, v in _arguments()[0].items()}
    arguments["batches"] = tf.constant([2**31 - 1] * 4)
    with pytest.raises(tf.errors.InvalidArgumentError, match="131072 blocks of 65536 rows where"):
        ops.tf_dlrm_lookup(N=4, **arguments)


def test_features_may_have_numbers_of_bags_of_their_own(ops):
    arguments, table = _arguments()
    arguments["ids"][1] = tf.constant([2, 0, 1], tf.int32)
    arguments["structures"] = [tf.constant([0, 1, 2, 2, 3], tf.int64)]
    arguments["weights"] = [tf.constant([2.0, 3.0, 5.0])]
    arguments["batches"] = tf.constant([2, 4])
    vectors = ops.tf_dlrm_lookup(N=2, **arguments)
    np.testing.assert_array_equal(vectors[0], [[0], [1]])
    np.testing.assert_array_equal(vectors[1], [[2 * 4], [3 * 2], [0], [5 * 3]])
    gradients = [tf.constant([[1.0], [2.0]]), tf.constant([[1.0], [2.0], [9.0], [4.0]])]
    rate = {"kind": "SGD", "gradients": gradients, "numbers": tf.ones(1)}
    ops.tf_dlrm_update(slots=[], **rate, **arguments)
    np.testing.assert_array_equal(table[:, 0], [0 - 1, 1 - 2, 2 - 3 * 2, 3 - 5 * 4, 4 - 2 * 1])
    rate["gradients"] = gradients[::-1]
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"feature a must have the shape \[2, 1"
    ):
        ops.tf_dlrm_update(slots=[], **rate, **arguments)


def test_the_arguments_are_right(ops):
    arguments, _ = _arguments()
    vectors = ops.tf_dlrm_lookup(N=2, **arguments)
    np.testing.assert_array_equal(vectors[0], [[0], [1]])
    np.testing.assert_array_equal(vectors[1], [[2 * 4], [3 * 2]])


@pytest.mark.parametrize(("wrong", "message"), [*_LISTS, *_WRONG])
def test_a_wrong_argument_is_an_error_of_lookup_and_update_and_nothing_is_updated(
    ops, wrong, message
):
    arguments, table = _arguments()
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        ops.tf_dlrm_lookup(N=2, **arguments | wrong)
    slot = _variable(tf.ones([5, 1]))
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        ops.tf_dlrm_update(slots=[slot.handle], **_SLOT, **arguments | wrong)
    np.testing.assert_array_equal(table[:, 0], np.arange(5))
    np.testing.assert_array_equal(slot, np.ones([5, 1]))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (tf.zeros([5, 1], tf.int8), r"is int8 \[5,1\]"),
        (tf.zeros([5, 1], tf.float16), r"is half \[5,1\]"),
        (tf.zeros([5, 1], tf.float64), r"is double \[5,1\]"),
        (tf.constant([["x"]] * 5), r"is string \[5,1\]"),
        (tf.zeros([5]), r"is float \[5\]"),
        (tf.zeros([5, 1, 1]), r"is float \[5,1,1\]"),
    ],
)
def test_a_variable_that_is_no_table_is_named(ops, rows, said):
    arguments, _ = _arguments()
    arguments["table"] = (variable := _variable(rows)).handle
    with pytest.raises(
        tf.errors.InvalidArgumentError,
        match=r"must be float32 \[rows, dim\], but " + said,
    ):
        ops.tf_dlrm_lookup(N=2, **arguments)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"must be float32|cannot be of type"):
        ops.tf_dlrm_update(slots=[_variable(tf.ones([5, 1])).handle], **_SLOT, **arguments)
    assert variable.dtype == rows.dtype


@pytest.mark.parametrize(
    "slot", [tf.zeros([5, 1], tf.bfloat16), tf.zeros([1, 5]), tf.zeros([5]), tf.zeros([4, 1])]
)
def test_a_slot_that_does_not_fit_its_table_is_named(ops, slot):
    arguments, _ = _arguments()
    with pytest.raises(
        tf.errors.InvalidArgumentError,
        match=r"A slot of a table \[5,1\] must be|cannot be of type bfloat16",
    ):
        ops.tf_dlrm_update(slots=[_variable(slot).handle], **_SLOT, **arguments)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "Adam"}, "There is no kernel for Adam"),
        ({"kind": "LazyAdam"}, r"LazyAdam has not 1 slot\(s\)"),
        ({"numbers": tf.ones(8)}, "the rate and 2 numbers of Adagrad, but their shape is .8"),
        ({"numbers": tf.ones(0)}, "the rate and 2 numbers of Adagrad, but their shape is .0"),
    ],
)
def test_an_optimizer_that_is_none_or_has_not_its_numbers_is_refused(ops, wrong, message):
    arguments, table = _arguments()
    slot = _variable(tf.ones([5, 1]))
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        ops.tf_dlrm_update(slots=[slot.handle], **_SLOT | wrong, **arguments)
    np.testing.assert_array_equal(table[:, 0], np.arange(5))


@pytest.mark.parametrize("rate", [np.nan, -np.nan])
def test_a_rate_that_is_no_number_updates_nothing(ops, rate):
    arguments, table = _arguments()
    slot = _variable(tf.ones([5, 1]))
    numbers = tf.constant([rate, 1.0, 1.0], tf.float32)
    ops.tf_dlrm_update(slots=[slot.handle], **_SLOT | {"numbers": numbers}, **arguments)
    np.testing.assert_array_equal(table[:, 0], np.arange(5))
    np.testing.assert_array_equal(slot, np.ones([5, 1]))


def test_a_table_that_is_its_own_slot_is_refused_and_does_not_wait_for_itself(ops):
    arguments, table = _arguments()
    with pytest.raises(tf.errors.InvalidArgumentError, match="must be different variables"):
        ops.tf_dlrm_update(slots=[table.handle], **_SLOT, **arguments)


def test_a_vector_of_variables_is_refused(ops):
    arguments, _ = _arguments()
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"by a scalar, .* the shape \[1\]"):
        ops.tf_dlrm_lookup(N=2, **arguments | {"table": tf.stack([arguments["table"]])})


@pytest.mark.parametrize(
    ("dims", "value", "message"),
    [
        ([3, -1], 0.0, "-1"),
        ([2**40, 2**40], 0.0, "more than 2..63 - 1|overflow"),
        ([[2]], 0.0, r"must be a vector and the value a scalar, .* \[1,1\] and \[\]"),
        ([2], [0.0], r"must be a vector and the value a scalar, .* \[1\] and \[1\]"),
    ],
)
def test_a_shape_that_is_none_is_not_filled(ops, dims, value, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        ops.tf_dlrm_fill(tf.constant(dims, tf.int64), value)


def _pairs(shapes, gradient=None):
    vectors = [tf.ones(shape) for shape in shapes]
    attributes = {"diagonal": False, "after_first": True}
    if gradient is None:
        return lambda ops: ops.tf_dlrm_products(vectors, **attributes)
    return lambda ops: ops.tf_dlrm_pull(tf.ones(gradient), vectors, **attributes)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (_pairs([(2, 3), (2, 4)]), r"must all have the shape .* \[2,3\] and \[2,4\]"),
        (_pairs([(2, 3), (3, 3)]), r"must all have the shape .* \[2,3\] and \[3,3\]"),
        (_pairs([(6,), (6,)]), r"must all have the shape .* \[6\] and \[6\]"),
        (_pairs([(2, 0), (2, 0)]), r"must have a column or more, .* \[2,0\]"),
        (_pairs([(2**40, 0)] * 2), "must have a column or more"),
        (_pairs([(2, 3), (2, 3)], (2, 3)), r"must have the shape \[2, 4\], but has \[2,3\]"),
        (_pairs([(2, 3), (2, 3)], (8,)), r"must have the shape \[2, 4\], but has \[8\]"),
        (_pairs([(2, 3), (2, 3)], (1, 4)), r"must have the shape \[2, 4\], but has \[1,4\]"),
        (lambda ops: ops.tf_dlrm_unbias(tf.ones([2, 3]), tf.ones([3, 2])), "but has .2,3."),
        (lambda ops: ops.tf_dlrm_unbias(tf.ones([6]), tf.ones([6])), "but has .6."),
    ],
)
def test_wrong_shapes_are_errors_of_interaction_and_dense_layers(ops, call, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        call(ops)


def test_of_no_elements_the_gradients_are_none(ops):
    product, bias = ops.tf_dlrm_unbias(tf.ones([0, 3]), tf.ones([0, 3]))
    assert product.shape == (0, 3)
    np.testing.assert_array_equal(bias, np.zeros(3))


def test_a_graph_of_wrong_ranks_is_not_built(ops):
    with tf.Graph().as_default():
        vectors = [tf.compat.v1.placeholder(tf.float32, [None, 3])] * 3
        products = ops.tf_dlrm_products(vectors, diagonal=True, after_first=True)
        assert products.shape.as_list() == [None, 3 + 6]
        with pytest.raises(ValueError, match="rank"):
            ops.tf_dlrm_products([vectors[0][0]] * 2, diagonal=True, after_first=True)
        with pytest.raises(ValueError, match="rank"):
            ops.tf_dlrm_unbias(vectors[0][0], vectors[0][0])
