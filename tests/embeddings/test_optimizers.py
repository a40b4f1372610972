"""Every optimizer against NumPy in float64, over several steps with repeated ids in a batch."""

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.embeddings import FTRL, SGD, Adagrad, LazyAdam, LearningRateSchedule, RowWiseAdagrad

ROWS, DIM, STEPS, BATCH = 12, 5, 6, 30


def oracle(optimizer, table, batches):
    """Returns the table and the slots after all batches, computed row by row."""
    table = table.astype("f8")
    slots = {
        s.name: np.full((ROWS,) if s.row_wise else (ROWS, DIM), s.initial_value, "f8")
        for s in optimizer.slots
    }
    for step, (ids, gradients) in enumerate(batches):
        rate = optimizer.learning_rate
        rate = float(rate(step)) if isinstance(rate, LearningRateSchedule) else rate
        for row in set(ids.tolist()):
            g = gradients[ids == row].astype("f8").sum(0)
            if isinstance(optimizer, SGD):
                table[row] -= rate * g
            elif isinstance(optimizer, Adagrad):
                slots["accumulator"][row] += g**2
                table[row] -= rate * g / (np.sqrt(slots["accumulator"][row]) + optimizer.epsilon)
            elif isinstance(optimizer, RowWiseAdagrad):
                slots["accumulator"][row] += np.mean(g**2)
                table[row] -= rate * g / (np.sqrt(slots["accumulator"][row]) + optimizer.epsilon)
            elif isinstance(optimizer, LazyAdam):
                b1, b2, t = optimizer.beta_1, optimizer.beta_2, step + 1
                m = slots["m"][row] = b1 * slots["m"][row] + (1 - b1) * g
                v = slots["v"][row] = b2 * slots["v"][row] + (1 - b2) * g**2
                factor = rate * np.sqrt(1 - b2**t) / (1 - b1**t)
                table[row] -= factor * m / (np.sqrt(v) + optimizer.epsilon)
            else:
                p = -optimizer.learning_rate_power
                n, z = slots["accumulator"], slots["linear"]
                new = n[row] + g**2
                z[row] += g - (new**p - n[row] ** p) / rate * table[row]
                n[row] = new
                curve = (new**p + optimizer.beta) / rate + 2 * optimizer.l2
                closed = (np.sign(z[row]) * optimizer.l1 - z[row]) / curve
                table[row] = np.where(np.abs(z[row]) > optimizer.l1, closed, 0.0)
    return table, slots


SCHEDULE = LearningRateSchedule(0.2, 3, 4, 2)
OPTIMIZERS = {
    "sgd": SGD(0.1),
    "sgd_schedule": SGD(SCHEDULE),
    "adagrad": Adagrad(0.1),
    "adagrad_large_epsilon": Adagrad(0.1, 0.5, 0.3),
    "row_wise": RowWiseAdagrad(0.1),
    "row_wise_large_epsilon": RowWiseAdagrad(SCHEDULE, 0.5, 0.3),
    "lazy_adam": LazyAdam(0.05),
    "lazy_adam_other": LazyAdam(SCHEDULE, 0.7, 0.8, 0.1),
    "ftrl": FTRL(0.1),
    "ftrl_constant_schedule": FTRL(LearningRateSchedule(0.1, 1, 2, 3, 2.0, 0.1)),
    "ftrl_all": FTRL(0.1, -0.4, 0.5, 0.05, 0.2, 0.7),
}


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("ids_dtype", ["int32", "int64"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_equals_numpy(name, ids_dtype, graph):
    optimizer = OPTIMIZERS[name]
    rng = np.random.default_rng(0)
    first = rng.normal(size=(ROWS, DIM)).astype("f")
    # Row 3 is never touched; most ids repeat within a batch.
    choices = np.delete(np.arange(ROWS), 3)
    batches = [
        (
            rng.choice(choices[: 4 + step], BATCH).astype(ids_dtype),
            rng.normal(size=(BATCH, DIM)).astype("f"),
        )
        for step in range(STEPS)
    ]
    table = tf.Variable(first, trainable=False)
    slots = {
        s.name: tf.Variable(tf.fill((ROWS,) if s.row_wise else (ROWS, DIM), s.initial_value))
        for s in optimizer.slots
    }

    def apply(ids, gradients, step):
        optimizer.apply(table, slots, ids, gradients, step)

    run = tf.function(apply, autograph=False) if graph else apply
    for step, (ids, gradients) in enumerate(batches):
        run(tf.constant(ids), tf.constant(gradients), tf.constant(step, tf.int64))
    expected, expected_slots = oracle(optimizer, first, batches)
    np.testing.assert_allclose(table.numpy(), expected, rtol=2e-5, atol=2e-6)
    assert set(slots) == set(expected_slots)
    for slot, value in expected_slots.items():
        np.testing.assert_allclose(slots[slot].numpy(), value, rtol=2e-5, atol=2e-6)
    np.testing.assert_array_equal(table.numpy()[3], first[3])
    assert np.abs(table.numpy()[choices] - first[choices]).max() > 0.01


def test_no_ids_change_nothing():
    for optimizer in OPTIMIZERS.values():
        table = tf.Variable(tf.ones((3, 2)))
        slots = {
            s.name: tf.Variable(tf.fill((3,) if s.row_wise else (3, 2), s.initial_value))
            for s in optimizer.slots
        }
        nothing = tf.zeros((0,), tf.int32), tf.zeros((0, 2))
        optimizer.apply(table, slots, *nothing, tf.constant(0, tf.int64))
        np.testing.assert_array_equal(table.numpy(), np.ones((3, 2)))
