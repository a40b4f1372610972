"""Which gradients update tables: those by the layer's weights, by whatever tape."""

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.embeddings import Adagrad, FeatureConfig, TableConfig
from tf_dlrm.layers import EmbeddingCollection

ROWS, DIM, RATE, START = 6, 2, 0.5, 0.1
FIRST, SECOND = [1, 2], [2, 4, 4]


def make():
    table = TableConfig("t", ROWS, DIM, optimizer=Adagrad(RATE, initial_accumulator=START))
    layer = EmbeddingCollection([FeatureConfig("f", table)], seed=3)
    layer.build()
    return layer


class Expected:
    """Adagrad in NumPy, which tells one update of a sum from two."""

    def __init__(self, layer):
        self.rows = layer.tables["t"].read_rows().numpy()
        self.accumulated = np.full((ROWS, DIM), START)
        self.updates = 0

    def update(self, *pulled):
        total = np.zeros((ROWS, DIM))
        for ids, gradients in pulled:
            np.add.at(total, ids, gradients)
        self.accumulated += total**2
        self.rows = self.rows - RATE * total / np.sqrt(self.accumulated)
        self.updates += 1

    def check(self, layer):
        np.testing.assert_allclose(layer.tables["t"].read_rows(), self.rows, rtol=1e-4, atol=1e-6)
        assert int(layer.tables.updates) == self.updates


def factor(number, ids):
    shape = (len(ids), DIM)
    return (np.arange(np.prod(shape)).reshape(shape) / 3.0 + number).astype("f")


def loss_of(layer, ids, number, scale=1.0):
    return tf.reduce_sum(scale * layer({"f": tf.constant(ids)})["f"] * factor(number, ids))


def run(step, graph):
    (tf.function(step, autograph=False) if graph else step)()


@pytest.mark.parametrize("graph", [False, True])
def test_a_gradient_by_other_things_updates_nothing(graph):
    layer = make()
    expected = Expected(layer)
    scale, found = tf.Variable(2.0), []

    def step():
        with tf.GradientTape(persistent=True) as tape:
            loss = loss_of(layer, FIRST, 1, scale)
        found.append(tape.gradient(loss, {"scale": scale})["scale"])
        updates = tf.identity(layer.tables.updates)
        tape.gradient(loss, [scale, *layer.trainable_variables])
        return updates

    updates = (tf.function(step, autograph=False) if graph else step)()
    assert int(updates) == 0
    if not graph:
        wanted = (expected.rows[FIRST] * factor(1, FIRST)).sum()
        np.testing.assert_allclose(found[0], wanted, rtol=1e-5)
    expected.update((FIRST, 2.0 * factor(1, FIRST)))
    expected.check(layer)


def test_a_penalty_on_gradients_by_inputs_is_part_of_the_one_update():
    layer = make()
    expected = Expected(layer)
    x = tf.Variable(1.5)
    with tf.GradientTape() as outer:
        before = loss_of(layer, SECOND, 2)
        with tf.GradientTape() as inner:
            vectors = layer({"f": tf.constant(FIRST)})["f"]
            square = tf.reduce_sum(x * vectors**2)
        slope = inner.gradient(square, x)  # the sum of the vectors' squares
        loss = before + slope
    outer.gradient(loss, layer.trainable_variables)
    expected.update((SECOND, factor(2, SECOND)), (FIRST, 2.0 * expected.rows[FIRST]))
    expected.check(layer)


def test_weights_that_only_some_of_several_layers_have():
    first, second = make(), make()
    expected, other = Expected(first), Expected(second)
    with tf.GradientTape(persistent=True) as tape:
        loss = loss_of(first, FIRST, 1) + loss_of(second, FIRST, 2)
    tape.gradient(loss, second.trainable_variables)
    other.update((FIRST, factor(2, FIRST)))
    expected.check(first)
    other.check(second)


@pytest.mark.parametrize("graph", [False, True])
def test_a_tape_within_a_persistent_one_that_has_recorded_a_call(graph):
    layer = make()
    expected = Expected(layer)

    def step():
        with tf.GradientTape(persistent=True) as outer:
            outer_loss = loss_of(layer, FIRST, 1)
            with tf.GradientTape() as inner:
                loss = loss_of(layer, SECOND, 2) + loss_of(layer, FIRST, 3)
            inner.gradient(loss, layer.trainable_variables)
        outer.gradient(outer_loss, layer.trainable_variables)

    run(step, graph)
    expected.update((SECOND, factor(2, SECOND)), (FIRST, factor(3, FIRST)))
    expected.update((FIRST, factor(1, FIRST)))
    expected.check(layer)


@pytest.mark.parametrize("persistent", [False, True])
def test_an_outer_tape_sums_what_it_saw_before_and_within_an_inner_one(persistent):
    layer = make()
    expected = Expected(layer)
    with tf.GradientTape(persistent=persistent) as outer:
        loss = loss_of(layer, FIRST, 1)
        with tf.GradientTape():
            loss += loss_of(layer, SECOND, 2)
        loss += loss_of(layer, FIRST, 3)
    outer.gradient(loss, layer.trainable_variables)
    expected.update(
        (FIRST, factor(1, FIRST)), (SECOND, factor(2, SECOND)), (FIRST, factor(3, FIRST))
    )
    expected.check(layer)


def test_two_calls_under_a_persistent_tape_may_be_updated_one_by_one():
    layer = make()
    expected = Expected(layer)
    with tf.GradientTape(persistent=True) as tape:
        losses = [loss_of(layer, FIRST, 1), loss_of(layer, SECOND, 2)]
    for loss in losses:
        tape.gradient(loss, layer.trainable_variables)
    expected.update((FIRST, factor(1, FIRST)))
    expected.update((SECOND, factor(2, SECOND)))
    expected.check(layer)
    with pytest.raises(ValueError, match="have been updated by the backward pass"):
        tape.gradient(losses[0], layer.trainable_variables)
    expected.check(layer)


def test_a_function_that_learnt_its_gradient_for_other_things_updates():
    layer = make()
    expected = Expected(layer)
    scale = tf.Variable(2.0)
    inner = tf.function(lambda: loss_of(layer, FIRST, 1, scale), autograph=False)

    def step(sources):
        with tf.GradientTape() as tape:
            loss = inner() * 1.0
        tape.gradient(loss, sources)

    tf.function(lambda: step([scale]), autograph=False).get_concrete_function()
    run(lambda: step(layer.trainable_variables), graph=True)
    expected.update((FIRST, 2.0 * factor(1, FIRST)))
    expected.check(layer)


def test_jacobians_are_by_other_things_only():
    layer = make()
    expected = Expected(layer)
    scale = tf.Variable([2.0, 3.0])
    with tf.GradientTape(persistent=True) as tape:
        target = tf.reduce_sum(layer({"f": tf.constant(FIRST)})["f"] * scale, 1)
    np.testing.assert_allclose(tape.jacobian(target, scale), expected.rows[FIRST], rtol=1e-5)
    expected.check(layer)
    with pytest.raises(NotImplementedError, match="The jacobian by the weights of layer"):
        tape.jacobian(target, [scale, *layer.trainable_variables])
    expected.check(layer)


def test_branches_and_loops_of_graphs_are_a_sentence_unless_the_tape_is_in_them():
    layer = make()
    expected = Expected(layer)
    one = tf.Variable(1.0)

    def branch():
        return tf.cond(one > 0.0, lambda: loss_of(layer, FIRST, 1), lambda: 0.0)

    def loop():
        return tf.reduce_sum(tf.map_fn(lambda x: x * loss_of(layer, FIRST, 1), tf.ones(2)))

    for inside in (branch, loop):

        def step(inside=inside):
            with tf.GradientTape() as tape:
                loss = inside()
            tape.gradient(loss, layer.trainable_variables)

        with pytest.raises(NotImplementedError, match="in a branch or a loop of a graph"):
            run(step, graph=True)

    def body(number):
        with tf.GradientTape() as tape:
            loss = loss_of(layer, FIRST, 1)
        tape.gradient(loss, layer.trainable_variables)
        return [number + 1]

    run(lambda: tf.while_loop(lambda number: number < 2, body, [0]), graph=True)
    expected.update((FIRST, factor(1, FIRST)))
    expected.update((FIRST, factor(1, FIRST)))
    expected.check(layer)
