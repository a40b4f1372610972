"""One backward pass is one update of the tables, and a gradient that is not finite is none."""

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.embeddings import (
    FTRL,
    SGD,
    Adagrad,
    FeatureConfig,
    LazyAdam,
    RowWiseAdagrad,
    TableConfig,
)
from tf_dlrm.kernels.use import kernels_allowed
from tf_dlrm.layers import EmbeddingCollection

OPTIMIZERS = [SGD(0.5), Adagrad(0.1), RowWiseAdagrad(0.1), LazyAdam(0.05), FTRL(0.5)]
ROWS, DIM = 10, 3
# The first batch and the second one have rows 2 and 5 in common.
FIRST = {"user": [1, 2], "item": [5, 5], "other": [0, 3]}
SECOND = {"user": [2, 4, 4], "item": [5, 6, 7], "other": [1, 1, 2]}


def make(optimizer, out_of_vocabulary=None, **kwargs):
    """Two features in one table, and one in another that is in the same stack."""
    options = {"optimizer": optimizer, "out_of_vocabulary": out_of_vocabulary}
    shared = TableConfig("shared", ROWS, DIM, **options)
    other = TableConfig("other", 4, DIM, **options)
    features = [
        FeatureConfig("user", shared),
        FeatureConfig("item", shared),
        FeatureConfig("other", other),
    ]
    layer = EmbeddingCollection(features, seed=3, **kwargs)
    layer.build()
    return layer


def ids_of(batch):
    return {name: tf.constant(ids) for name, ids in batch.items()}


def factor(number, rows):
    """Gradients that differ from row to row, and never cancel."""
    return tf.reshape(tf.range(rows * DIM, dtype=tf.float32) / 7.0 + number, [rows, DIM])


def loss_of_two_calls(layer, training=None):
    """Users and items of two batches; feature "other" is looked up and not used."""
    first = layer(ids_of(FIRST), training=training)
    second = layer(ids_of(SECOND), training=training)
    return (
        tf.reduce_sum(first["user"] * factor(1, 2))
        + tf.reduce_sum(first["item"] * factor(2, 2))
        + tf.reduce_sum(second["user"] * factor(3, 3))
        + tf.reduce_sum(second["item"] * factor(-4, 3))
    )


def pulled_by_two_calls():
    ids = FIRST["user"] + FIRST["item"] + SECOND["user"] + SECOND["item"]
    return ids, tf.concat([factor(1, 2), factor(2, 2), factor(3, 3), factor(-4, 3)], 0)


class Expected:
    """A table and its slots, updated by the optimizer alone, which has tests of its own."""

    def __init__(self, layer, table="shared"):
        held = layer.tables[table]
        self.optimizer = held.config.optimizer
        self.rows = tf.Variable(held.read_rows())
        self.slots = {
            s.name: tf.Variable(held.read_rows(slot=s.name)) for s in self.optimizer.slots
        }
        self.steps = 0

    def update(self, ids, gradients):
        step = tf.constant(self.steps, tf.int64)
        self.optimizer.apply(self.rows, self.slots, tf.constant(ids), gradients, step)
        self.steps += 1

    def check(self, layer, table="shared"):
        held = layer.tables[table]
        np.testing.assert_allclose(held.read_rows(), self.rows, rtol=1e-5, atol=1e-6)
        for name, slot in self.slots.items():
            np.testing.assert_allclose(held.read_rows(slot=name), slot, rtol=1e-5, atol=1e-6)


def backward(layer, loss_of, persistent=False):
    with tf.GradientTape(persistent=persistent) as tape:
        loss = loss_of(layer)
    tape.gradient(loss, layer.trainable_variables)


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: type(o).__name__)
def test_two_calls_are_one_update(optimizer, kernels):
    layer = make(optimizer)
    expected = Expected(layer)
    unused = layer.tables["other"].read_rows().numpy()
    with kernels_allowed(kernels):
        for step in range(2):
            backward(layer, loss_of_two_calls, persistent=step == 1)
            expected.update(*pulled_by_two_calls())
    expected.check(layer)
    assert int(layer.tables.updates) == 2
    np.testing.assert_array_equal(layer.tables["other"].read_rows(), unused)


@pytest.mark.parametrize("tape_outside", [False, True])
def test_two_calls_in_a_graph_are_one_update(tape_outside):
    layer = make(LazyAdam(0.05))
    expected = Expected(layer)
    if tape_outside:
        loss_of = tf.function(loss_of_two_calls, autograph=False)
        step = lambda: backward(layer, loss_of)  # noqa: E731
    else:
        step = tf.function(lambda: backward(layer, loss_of_two_calls), autograph=False)
    for _ in range(2):
        step()
        expected.update(*pulled_by_two_calls())
    expected.check(layer)
    assert int(layer.tables.updates) == 2


def test_gradients_of_several_batches_are_summed_under_one_tape():
    layer = make(Adagrad(0.1))
    expected = Expected(layer)
    with tf.GradientTape() as tape:
        losses = []
        for number, batch in enumerate((FIRST, SECOND, FIRST)):
            vectors = layer(ids_of(batch), training=True)
            losses.append(tf.reduce_sum(vectors["user"] * factor(number, len(batch["user"]))))
        loss = tf.add_n(losses)
    tape.gradient(loss, layer.trainable_variables)
    ids = FIRST["user"] + SECOND["user"] + FIRST["user"]
    expected.update(ids, tf.concat([factor(0, 2), factor(1, 3), factor(2, 2)], 0))
    expected.check(layer)


@pytest.mark.parametrize("kernels", [True, False])
def test_an_unused_feature_stays_as_it_is(kernels):
    layer = make(LazyAdam(0.05))
    expected = Expected(layer)

    def loss_of(layer, names):
        vectors = layer(ids_of(FIRST))
        return sum(tf.reduce_sum(vectors[name] * factor(1, 2)) for name in names)

    with kernels_allowed(kernels):
        backward(layer, lambda layer: loss_of(layer, ("user", "item", "other")))
        other = layer.tables.to_arrays()
        backward(layer, lambda layer: loss_of(layer, ("item",)))
    expected.update(FIRST["user"] + FIRST["item"], tf.concat([factor(1, 2)] * 2, 0))
    expected.update(FIRST["item"], factor(1, 2))
    expected.check(layer)
    for key in ("other:rows", "other:m", "other:v"):
        np.testing.assert_array_equal(layer.tables.to_arrays()[key], other[key])
    assert np.abs(other["other:m"]).max() > 0


def test_nothing_used_is_no_update():
    layer = make(LazyAdam(0.05))
    dense = tf.Variable(2.0)
    with tf.GradientTape() as tape:
        layer(ids_of(FIRST))
        loss = dense * dense
    tape.gradient(loss, [dense, *layer.trainable_variables])
    assert int(layer.tables.updates) == 0


def test_a_second_gradient_of_one_call_is_refused():
    layer = make(Adagrad(0.1))
    expected = Expected(layer)
    dense = tf.Variable(2.0)
    with tf.GradientTape(persistent=True) as tape:
        loss = dense * loss_of_two_calls(layer)
    tape.gradient(loss, [dense, *layer.trainable_variables])
    with pytest.raises(ValueError, match="have been updated by the backward pass.*Ask the"):
        tape.gradient(loss, layer.trainable_variables)
    ids, gradients = pulled_by_two_calls()
    expected.update(ids, 2.0 * gradients)
    expected.check(layer)


def test_a_tape_that_does_not_watch_the_layer_updates_nothing():
    layer = make(SGD(0.5))
    expected = Expected(layer)
    with tf.GradientTape() as outer:
        with tf.GradientTape(watch_accessed_variables=False) as inner:
            vector = layer(ids_of(FIRST), training=True)["user"]
            inner.watch(vector)
            square = tf.reduce_sum(vector**2)
        slope = inner.gradient(square, vector)  # 2 vector
        assert int(layer.tables.updates) == 0
        loss = tf.reduce_sum(slope**2)
    outer.gradient(loss, layer.trainable_variables)
    expected.update(FIRST["user"], 8.0 * tf.gather(expected.rows, FIRST["user"]))
    expected.check(layer)


def test_tapes_one_after_the_other_are_an_update_each():
    layer = make(LazyAdam(0.05))
    expected = Expected(layer)
    with tf.GradientTape() as first:
        loss = tf.reduce_sum(layer(ids_of(FIRST))["user"] * factor(1, 2))
    with tf.GradientTape() as second:
        other_loss = tf.reduce_sum(layer(ids_of(SECOND))["user"] * factor(2, 3))
    second.gradient(other_loss, layer.trainable_variables)
    first.gradient(loss, layer.trainable_variables)
    expected.update(SECOND["user"], factor(2, 3))
    expected.update(FIRST["user"], factor(1, 2))
    expected.check(layer)


@pytest.mark.parametrize("graph", [False, True])
def test_recomputed_calls_are_one_update(graph):
    layer = make(Adagrad(0.1))
    expected = Expected(layer)
    dense = tf.Variable(2.0)
    loss_of = tf.recompute_grad(lambda scale: scale * loss_of_two_calls(layer))

    def step():
        with tf.GradientTape() as tape:
            loss = loss_of(dense * 1.0)
        return tape.gradient(loss, [dense, *layer.trainable_variables])

    (tf.function(step, autograph=False) if graph else step)()
    ids, gradients = pulled_by_two_calls()
    expected.update(ids, 2.0 * gradients)
    expected.check(layer)
    assert int(layer.tables.updates) == 1


@pytest.mark.parametrize("tape_outside", [False, True])
def test_weights_of_two_calls_get_gradients_by_the_rows_before_the_update(tape_outside):
    layer = make(SGD(0.5))
    rows = layer.tables["shared"].read_rows().numpy()
    first, second = tf.Variable([2.0, 3.0]), tf.Variable([1.0, 0.5, 4.0])

    def loss_of():
        one = layer(ids_of(FIRST), {"user": tf.convert_to_tensor(first)}, training=True)
        two = layer(ids_of(SECOND), {"user": tf.convert_to_tensor(second)}, training=True)
        return tf.reduce_sum(one["user"] * factor(1, 2)) + tf.reduce_sum(two["user"] * factor(2, 3))

    with tf.GradientTape() as tape:
        loss = (tf.function(loss_of, autograph=False) if tape_outside else loss_of)()
    found = tape.gradient(loss, [first, second, *layer.trainable_variables])
    calls = [(FIRST["user"], first, factor(1, 2)), (SECOND["user"], second, factor(2, 3))]
    for gradient, (ids, _, upstream) in zip(found[:2], calls, strict=True):
        np.testing.assert_allclose(gradient, (rows[ids] * upstream.numpy()).sum(1), rtol=1e-5)
    for ids, weights, upstream in calls:
        np.subtract.at(rows, ids, 0.5 * weights.numpy()[:, None] * upstream.numpy())
    np.testing.assert_allclose(layer.tables["shared"].read_rows(), rows, rtol=1e-5, atol=1e-6)


def test_a_tape_without_training_takes_the_kernels():
    layer = make(SGD(0.5))

    def operations(function):
        graph = tf.function(function, autograph=False).get_concrete_function().graph
        return {op.type for op in graph.get_operations()}

    assert {"TfDlrmLookup", "TfDlrmUpdate"} <= operations(
        lambda: backward(layer, lambda layer: tf.reduce_sum(layer(ids_of(FIRST))["user"]))
    )
    assert not {t for t in operations(lambda: layer(ids_of(FIRST))) if t.startswith("TfDlrm")}


def test_a_step_that_xla_compiles_does_without_kernels():
    layer = make(SGD(0.5), out_of_vocabulary=0)
    expected = Expected(layer)

    def step(layer):
        backward(layer, lambda layer: loss_of_two_calls(layer, training=True))

    compiled = tf.function(step, autograph=False, jit_compile=True)
    # There an id outside its table is no error.
    with pytest.raises(
        ValueError, match=r"XLA cannot compile.*\['shared', 'other'\] an out_of_voc"
    ):
        compiled(make(SGD(0.5)))
    compiled(layer)
    expected.update(*pulled_by_two_calls())
    expected.check(layer)


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_a_gradient_that_is_not_finite_updates_nothing_and_is_counted(bad, kernels):
    layer = make(LazyAdam(0.05))
    expected = Expected(layer)
    before = layer.tables.to_arrays()
    wrong = tf.constant([[0.0] * DIM, [0.0, bad, 1.0]])

    def loss_of(layer, factors):
        vectors = layer(ids_of(FIRST))
        return sum(tf.reduce_sum(vectors[name] * f) for name, f in factors.items())

    with kernels_allowed(kernels):
        backward(layer, lambda layer: loss_of(layer, {"user": factor(1, 2), "other": wrong}))
        for key, value in layer.tables.to_arrays().items():
            np.testing.assert_array_equal(value, before[key])
        assert int(layer.tables.skipped_updates) == 1
        # The next one is the first that counts, as Adam's correction shows.
        backward(layer, lambda layer: loss_of(layer, {"user": factor(1, 2)}))
    expected.update(FIRST["user"], factor(1, 2))
    expected.check(layer)
    assert (int(layer.tables.updates), int(layer.tables.skipped_updates)) == (1, 1)


def test_weights_that_are_not_finite_update_nothing():
    layer = make(SGD(0.5))
    expected = Expected(layer)
    with tf.GradientTape() as tape:
        weights = {"user": tf.constant([np.inf, 1.0], tf.float32)}
        # The gradient of the first row is finite, 0, but times infinity it would be none.
        loss = tf.reduce_sum(layer(ids_of(FIRST), weights)["user"] * [[0.0], [1.0]])
    tape.gradient(loss, layer.trainable_variables)
    expected.check(layer)
    assert int(layer.tables.skipped_updates) == 1
