"""A store that somebody adds: tables in NumPy arrays, which no variable of TensorFlow holds."""

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.embeddings import (
    FeatureConfig,
    LazyAdam,
    QuotientRemainder,
    RowWiseAdagrad,
    TableConfig,
)
from tf_dlrm.embeddings.block import Block
from tf_dlrm.embeddings.lookup import Tables, logical_tables
from tf_dlrm.embeddings.plan import whole_plan
from tf_dlrm.embeddings.requests import joined, none_unless
from tf_dlrm.embeddings.stack import Shard, make_stacks
from tf_dlrm.embeddings.stores import choose
from tf_dlrm.layers import EmbeddingCollection

A = TableConfig("a", 50, 4, optimizer=RowWiseAdagrad(0.1))
B = TableConfig("b", 30, 4, optimizer=LazyAdam(0.1), combiner="mean")
C = TableConfig("c", 40, 4, optimizer=LazyAdam(0.1), storage=QuotientRemainder(3))
FEATURES = [FeatureConfig(*of) for of in zip("wxyz", (A, A, B, C), strict=True)]


class HostMemory:
    """The plan that asks for it."""


class Array:
    """An array, with what optimizers and blocks want of a variable."""

    device = "CPU:0"

    def __init__(self, shape, value):
        self.values = np.full(shape, value, np.float32)

    def sparse_read(self, ids, name=None):
        found = tf.numpy_function(lambda at: self.values[at], [ids], tf.float32)
        return tf.ensure_shape(found, [*ids.shape, *self.values.shape[1:]])

    def scatter_update(self, rows):
        def write(at, values):
            self.values[at] = values

        tf.numpy_function(write, [rows.indices, rows.values], [])


class ArrayBlock(Block):
    def assign(self, values, slot):
        rows = tf.range(self.offset, self.offset + self.rows)
        self._variable(slot).scatter_update(tf.IndexedSlices(values, rows))


class ArrayShard(Shard):
    variables = ()

    def __init__(self, device, blocks):
        self.optimizer = blocks[0].table.optimizer
        self.rows, dim = blocks[-1].offset + blocks[-1].rows, blocks[0].columns
        self.variable = Array((self.rows, dim), 0.0)
        self.slots = {
            slot.name: Array(
                (self.rows,) if slot.row_wise else (self.rows, dim), slot.initial_value
            )
            for slot in self.optimizer.slots
        }
        held = {"rows": self.variable, **self.slots}
        self.blocks = [ArrayBlock(**{**vars(block), "variables": held}) for block in blocks]


class ArrayTables(Tables):
    def __init__(self, features, plan, seed, dtype):
        stacks = make_stacks(features, whole_plan(features), ArrayShard)
        super().__init__(features, stacks, logical_tables(features, stacks, seed))

    def read(self, asked):
        return [(tf.gather(own.stack.on().variable, own.ids), None) for own in asked]

    def write(self, used, step, finite, kernels):
        for own in used:
            shard = own[0].asked.stack.on()
            ids, gradients = none_unless(finite, *joined([part.of_rows() for part in own]))
            shard.optimizer.apply(shard.variable, shard.slots, ids, gradients, step)
        return finite


def batch(seed):
    rng = np.random.default_rng(seed)
    return {
        "w": tf.constant(rng.integers(0, 50, 8)),
        "x": tf.constant(rng.integers(0, 50, (8, 3))),
        "y": tf.RaggedTensor.from_row_lengths(rng.integers(0, 30, 16), [0, 4] * 4),
        "z": tf.constant(rng.integers(0, 40, 8)),
    }


def trained(plan, compiled):
    layer = EmbeddingCollection(FEATURES, seed=3, plan=plan)
    layer.build()

    def step(ids):
        with tf.GradientTape() as tape:
            found = layer(ids, training=True)
            loss = tf.add_n([tf.reduce_sum(tf.square(vector - 0.3)) for vector in found.values()])
        tape.gradient(loss, layer.trainable_weights)
        return loss

    run = tf.function(step) if compiled else step
    return layer, [float(run(batch(seed))) for seed in range(4)]


@pytest.mark.parametrize("compiled", [False, True])
def test_it_learns_what_one_device_learns_and_reads_its_checkpoints(
    compiled, monkeypatch, tmp_path
):
    monkeypatch.setenv("TF_DLRM_KERNELS", "tensorflow")
    monkeypatch.setitem(choose._MAKERS, HostMemory, ArrayTables)
    one, losses = trained(None, True)
    other, found = trained(HostMemory(), compiled)
    np.testing.assert_allclose(found, losses, rtol=1e-5)
    assert losses[-1] < losses[0]
    arrays = one.tables.to_arrays()
    for key, value in other.tables.to_arrays().items():
        np.testing.assert_allclose(value, arrays[key], rtol=1e-4, atol=1e-6, err_msg=key)
    assert len(other.get_weights()) == 1  # those of TensorFlow alone

    tf.train.Checkpoint(layer=one).write(str(tmp_path / "one"))
    taker = EmbeddingCollection(FEATURES, plan=HostMemory())
    taker.build()
    tf.train.Checkpoint(layer=taker).read(str(tmp_path / "one")).assert_consumed()
    for key, value in taker.tables.to_arrays().items():
        np.testing.assert_array_equal(value, arrays[key], err_msg=key)
