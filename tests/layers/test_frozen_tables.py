"""One table of several that is looked up and never updated, in every storage and placement."""

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.embeddings import (
    SGD,
    Adagrad,
    Constant,
    FeatureConfig,
    Frozen,
    MixedDimension,
    MultipleHashing,
    QuotientRemainder,
    TableConfig,
    WeightedRows,
)
from tf_dlrm.embeddings.plan import COLUMN_WISE, DATA_PARALLEL, ROW_WISE, Plan, TablePlan
from tf_dlrm.layers import EmbeddingCollection

IDS = {"frozen": tf.constant([1, 3]), "free": tf.constant([1, 3])}


def collection(optimizer, storage=None, plan=None):
    frozen = TableConfig("frozen", 6, 4, Constant(2.0), optimizer, storage=storage)
    free = TableConfig("free", 6, 4, Constant(2.0), SGD(0.5))
    return EmbeddingCollection(
        [FeatureConfig("frozen", frozen), FeatureConfig("free", free)], plan=plan
    )


def train(layer, training=True, weights=None):
    """Makes a step whose gradient is 3 for every number of each vector."""
    with tf.GradientTape() as tape:
        vectors = layer(IDS, weights, training=training)
        loss = tf.add_n([3.0 * tf.reduce_sum(vector) for vector in vectors.values()])
    return tape.gradient(loss, layer.trainable_variables)


@pytest.mark.parametrize("training", [True, None], ids=["kernels", "tensorflow"])
@pytest.mark.parametrize(
    "storage",
    [
        None,
        QuotientRemainder(2, "multiply"),
        QuotientRemainder(2, "concatenate"),
        MixedDimension(2),
        MultipleHashing(3),
        WeightedRows(),
    ],
    ids=str,
)
def test_a_frozen_table_stays_and_the_others_learn(storage, training):
    layer = collection(Frozen(), storage)
    layer.build()
    before = layer.tables.to_arrays()
    assert [k for k in before if not k.endswith(":rows")] == [":updates"]  # and no slots
    train(layer, training)
    changed = {k for k, v in layer.tables.to_arrays().items() if (v != before[k]).any()}
    assert changed == {"free:rows", ":updates"}
    free = np.full((6, 4), 2.0)
    free[[1, 3]] -= 0.5 * 3.0
    np.testing.assert_allclose(layer.tables["free"].read_rows(), free)
    # Nor does an optimizer of Keras train a part of it.
    assert [tuple(w.shape) for w in layer.trainable_variables] == [()]


def test_gradients_reach_the_weights_of_ids_of_a_frozen_table():
    layer = collection(Frozen())
    flat = tf.Variable([0.5, 2.0])
    with tf.GradientTape() as tape:
        vectors = layer(IDS, {"frozen": tf.identity(flat)}, training=True)
        loss = tf.reduce_sum(vectors["frozen"])
    np.testing.assert_allclose(tape.gradient(loss, flat), [8.0, 8.0])  # 4 columns of 2


def test_a_checkpoint_of_a_trained_table_is_frozen(tmp_path):
    trained = collection(Adagrad(0.5))
    train(trained)
    path = tf.train.Checkpoint(layer=trained).write(str(tmp_path / "c"))
    frozen = collection(Frozen())
    frozen.build()
    tf.train.Checkpoint(layer=frozen).read(path).assert_existing_objects_matched()
    rows = frozen.tables["frozen"].read_rows().numpy()
    np.testing.assert_allclose(rows[[0, 1]], [[2.0] * 4, [1.5] * 4], rtol=1e-6)
    train(frozen)
    np.testing.assert_array_equal(frozen.tables["frozen"].read_rows(), rows)


@pytest.mark.parametrize("how", [ROW_WISE, COLUMN_WISE, DATA_PARALLEL])
def test_under_a_strategy(how):
    devices = () if how == DATA_PARALLEL else (0, 1)
    plan = Plan(2, {"frozen": TablePlan(how, devices), "free": TablePlan(ROW_WISE, (0, 1))})
    strategy = tf.distribute.MirroredStrategy(
        ["/cpu:0", "/cpu:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
    with strategy.scope():
        layer = collection(Frozen(), plan=plan)
        layer.build()
    tf.function(lambda: strategy.run(lambda: train(layer)), autograph=False)()
    free = np.full((6, 4), 2.0)
    free[[1, 3]] -= 2 * 0.5 * 3.0  # both replicas had these ids
    np.testing.assert_allclose(layer.tables["free"].read_rows(), free)
    np.testing.assert_array_equal(layer.tables["frozen"].read_rows(), np.full((6, 4), 2.0))
