"""Every form of every rule against NumPy in float64, over several steps with repeated ids."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from optimizer_oracles import CASES, RULES, batches, oracle

from tf_dlrm.embeddings import Frozen, native
from tf_dlrm.embeddings.optimizers import OPTIMIZERS

ROWS, DIM = 12, 5


def _first(dim=DIM):
    return np.random.default_rng(1).normal(size=(ROWS, dim)).astype("f")


def _variables(optimizer, first):
    """Returns a table and its slots."""
    rows, dim = first.shape
    return tf.Variable(first, trainable=False), {
        s.name: tf.Variable(tf.fill((rows,) if s.row_wise else (rows, dim), s.initial_value))
        for s in optimizer.slots
    }


def _assert_learnt(optimizer, first, given, rows, slots):
    """Compares with the oracle; row 3 was in no batch."""
    wanted = oracle(optimizer, first, given)
    found = {"rows": rows, **slots}
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-5, atol=2e-6, err_msg=name)
    np.testing.assert_array_equal(rows[3], first[3])
    assert np.abs(np.delete(rows - first, 3, 0)).max() > 0.01


def test_every_optimizer_that_learns_has_an_oracle_and_a_large_epsilon():
    assert {kind.__name__ for kind in OPTIMIZERS} == {*RULES, "Frozen"}
    for kind in OPTIMIZERS:
        cases = [case for case in CASES.values() if type(case) is kind]
        assert cases or kind is Frozen
        if any(field.name == "epsilon" for field in dataclasses.fields(kind)):
            assert {0.1, 1.0} <= {case.epsilon for case in cases}


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("ids_dtype", ["int32", "int64"])
@pytest.mark.parametrize("name", CASES)
def test_sparse(name, ids_dtype, graph):
    optimizer, first = CASES[name], _first()
    given = batches(ROWS, DIM, dtype=ids_dtype)
    table, slots = _variables(optimizer, first)

    def apply(ids, gradients, step):
        # Where rows are shared, differences are written.
        optimizer.apply(table, slots, ids, gradients, step, shared=ids_dtype == "int32")

    run = tf.function(apply, autograph=False) if graph else apply
    for step, (ids, gradients) in enumerate(given):
        run(tf.constant(ids), tf.constant(gradients), tf.constant(step, tf.int64))
    found = {name: slot.numpy() for name, slot in slots.items()}
    _assert_learnt(optimizer, first, given, table.numpy(), found)


@pytest.mark.parametrize("name", CASES)
def test_dense_compiled(name):
    optimizer, first = CASES[name], _first()
    given = batches(ROWS, DIM)
    rows, slots = (
        tf.nest.map_structure(tf.convert_to_tensor, v) for v in _variables(optimizer, first)
    )
    update = tf.function(optimizer.apply_dense, jit_compile=True, autograph=False)
    for step, (ids, gradients) in enumerate(given):
        summed = np.zeros((ROWS, DIM), "f")
        np.add.at(summed, ids, gradients)
        touched = np.isin(np.arange(ROWS), ids)
        # Whatever the gradients of other rows are, these stay.
        summed[~touched] = 7.0
        count = tf.constant(step, tf.int64)
        rows, slots = update(rows, slots, tf.constant(summed), tf.constant(touched), count)
    _assert_learnt(
        optimizer, first, given, rows.numpy(), {key: slot.numpy() for key, slot in slots.items()}
    )


# 16 columns are summed in lanes, 17 leave a rest.
@pytest.mark.parametrize("dim", [5, 16, 17])
@pytest.mark.parametrize("name", CASES)
def test_native(name, dim, monkeypatch):
    monkeypatch.setenv("TF_DLRM_KERNELS", "native")
    optimizer, first = CASES[name], _first(dim)
    given = batches(ROWS, dim)
    table, slots = _variables(optimizer, first)
    assert native.are_used(optimizer, "/cpu:0")
    for step, (ids, gradients) in enumerate(given):
        count = tf.constant(step, tf.int64)
        native.update_rows(optimizer, table, slots, tf.constant(ids), tf.constant(gradients), count)
    found = {name: slot.numpy() for name, slot in slots.items()}
    _assert_learnt(optimizer, first, given, table.numpy(), found)


def test_updates_of_two_workers_at_once_are_both_made():
    # What a worker has read is old when it writes.
    optimizer = CASES["adagrad_epsilon_0.1"]
    table, slots = _variables(optimizer, np.ones((2, 1), "f"))
    read_before = tf.gather

    def read_and_be_overtaken(variable, ids):
        value = read_before(variable, ids)
        variable.scatter_add(tf.IndexedSlices(tf.constant([[10.0]]), [1]))
        return value

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf, "gather", read_and_be_overtaken)
        step = tf.constant(0, tf.int64)
        optimizer.apply(table, slots, tf.constant([1]), tf.constant([[2.0]]), step, shared=True)
    np.testing.assert_allclose(slots["accumulator"], [[0.5], [10 + 0.5 + 4]])
    np.testing.assert_allclose(table, [[1], [10 + 1 - 0.1 * 2 / (4.5**0.5 + 0.1)]], rtol=1e-6)


def test_no_ids_change_nothing():
    for optimizer in CASES.values():
        table, slots = _variables(optimizer, np.ones((3, 2), "f"))
        nothing = tf.zeros((0,), tf.int32), tf.zeros((0, 2))
        optimizer.apply(table, slots, *nothing, tf.constant(0, tf.int64))
        np.testing.assert_array_equal(table.numpy(), np.ones((3, 2)))


def test_frozen_rows_stay_in_every_form(monkeypatch):
    monkeypatch.setenv("TF_DLRM_KERNELS", "native")
    table, slots = _variables(Frozen(), _first())
    ids, gradients, step = tf.constant([1, 1]), tf.ones((2, DIM)), tf.constant(0, tf.int64)
    Frozen().apply(table, slots, ids, gradients, step)
    native.update_rows(Frozen(), table, slots, ids, gradients, step)
    every = tf.ones(ROWS, tf.bool)
    rows, _ = Frozen().apply_dense(table, {}, tf.ones((ROWS, DIM)), every, step)
    np.testing.assert_array_equal(table, _first())
    np.testing.assert_array_equal(rows, _first())
