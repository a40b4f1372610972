"""Optimizers on a TPU: the configs of its API, and the same numbers on the host."""

import numpy as np
import pytest
import tensorflow as tf
from optimizer_oracles import CASES, batches, oracle

from tf_dlrm.embeddings import (
    FTRL,
    SGD,
    Adagrad,
    FeatureConfig,
    Frozen,
    LazyAdam,
    LearningRateSchedule,
    RowWiseAdagrad,
    TableConfig,
)
from tf_dlrm.tpu.engine import HostEngine
from tf_dlrm.tpu.optimizers import moves_without_gradient, optimizer_config, tpu_names

_SCHEDULE = LearningRateSchedule(0.4, warmup_steps=4, decay_start_step=4, decay_steps=4)
# Its Adagrad has no epsilon and must not begin at 0.
_ON_TPU = {
    name: case for name, case in CASES.items() if not isinstance(case, Adagrad | RowWiseAdagrad)
} | {"adagrad": Adagrad(0.1, initial_accumulator=0.5)}


def test_optimizers_keep_their_numbers():
    sgd = optimizer_config(SGD(0.25))
    assert isinstance(sgd, tf.tpu.experimental.embedding.SGD) and sgd.learning_rate == 0.25
    adagrad = optimizer_config(Adagrad(0.5, initial_accumulator=0.2))
    assert (adagrad.learning_rate, adagrad.initial_accumulator_value) == (0.5, 0.2)
    ftrl = optimizer_config(FTRL(0.1, -0.4, l1=0.01, l2=0.02, beta=0.3, initial_accumulator=0.2))
    assert (ftrl.learning_rate, ftrl.learning_rate_power, ftrl.beta) == (0.1, -0.4, 0.3)
    assert (ftrl.l1_regularization_strength, ftrl.l2_regularization_strength) == (0.01, 0.02)
    assert ftrl.initial_accumulator_value == 0.2
    adam = optimizer_config(LazyAdam(0.1, 0.8, 0.95, 1e-6), tf.Variable(0, dtype=tf.int64))
    assert (adam.beta_1, adam.beta_2, adam.epsilon) == (0.8, 0.95, 1e-6)
    assert adam.lazy_adam and not adam.sum_inside_sqrt


def test_adam_is_corrected_by_its_learning_rate():
    # The hardware leaves the correction for the first steps to the learning rate.
    step = tf.Variable(0, dtype=tf.int64)
    rate = optimizer_config(LazyAdam(0.1), step).learning_rate
    for number in (0, 1, 10, 100_000):
        step.assign(number)
        t = number + 1
        np.testing.assert_allclose(
            rate(), 0.1 * (1 - 0.999**t) ** 0.5 / (1 - 0.9**t), rtol=1e-6, err_msg=str(number)
        )


def test_schedules_and_adam_need_the_counter():
    for optimizer in (SGD(_SCHEDULE), LazyAdam(0.1)):
        with pytest.raises(ValueError, match="needs `step`"):
            optimizer_config(optimizer)


@pytest.mark.parametrize(
    ("optimizer", "slots"),
    [
        (SGD(0.1), {}),
        (Frozen(), {}),
        (Adagrad(0.1, initial_accumulator=0.5), {"accumulator": "accumulators"}),
        (LazyAdam(0.1), {"m": "momenta", "v": "velocities"}),
        (FTRL(0.1), {"accumulator": "accumulators", "linear": "linears"}),
    ],
)
def test_slots_have_the_names_of_tensorflow(optimizer, slots):
    table = TableConfig("t", 12, 5, optimizer=optimizer)
    assert tpu_names(table) == {"rows": "parameters", **slots}
    config = optimizer_config(optimizer, tf.Variable(0, dtype=tf.int64))
    assert config._slot_names() == list(slots.values())


@pytest.mark.parametrize("name", _ON_TPU)
def test_the_host_in_its_place_learns_what_numpy_learns(name):
    optimizer = _ON_TPU[name]
    step = tf.Variable(0, dtype=tf.int64)
    features = [FeatureConfig("f", TableConfig("t", 12, 5, optimizer=optimizer))]
    engine = HostEngine(features, 3, step)
    (table,) = engine.tables
    first = table.read_rows().numpy()
    given = batches(12, 5)
    for number, (ids, gradients) in enumerate(given):
        step.assign(number)
        vectors, kept = engine.receive(engine.enqueue({"f": tf.constant(ids)}))
        np.testing.assert_array_equal(vectors["f"], tf.gather(table.read_rows(), ids))
        engine.apply({"f": tf.constant(gradients)}, kept, step.read_value())
    for key, wanted in oracle(optimizer, first, given).items():
        found = table.read_rows(slot=key)
        np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-6, err_msg=key)


def test_says_which_rules_move_a_row_by_a_gradient_of_0():
    row, gradient = tf.constant([[0.5, -2.0]]), tf.zeros((1, 2))
    for optimizer in (SGD(0.1), Adagrad(0.1), LazyAdam(0.1), FTRL(0.1), Frozen()):
        # Slots as a first gradient of another row's would leave them, and as they begin.
        moved = []
        for value in (None, 0.3):
            slots = {
                s.name: tf.fill((1, 2), s.initial_value if value is None else value)
                for s in optimizer.slots
            }
            found, _ = optimizer.rule(row, slots, gradient, tf.constant(0.1))
            moved.append(bool(np.any(found.numpy() != row.numpy())))
        assert moves_without_gradient(optimizer) == any(moved), optimizer
