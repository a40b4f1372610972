"""Tables stored as smaller ones learn, wherever they are, what they learn on one device."""

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.embeddings import (
    FTRL,
    SGD,
    Adagrad,
    FeatureConfig,
    LazyAdam,
    MixedDimension,
    MultipleHashing,
    QuotientRemainder,
    RowWiseAdagrad,
    TableConfig,
    Uniform,
    WeightedRows,
    stored_features,
    tables_of,
)
from tf_dlrm.embeddings.plan import COLUMN_WISE, ROW_WISE, TABLE_WISE, Plan, TablePlan
from tf_dlrm.embeddings.stores.servers import ParameterServerPlacement
from tf_dlrm.layers import EmbeddingCollection, embedding_collection

STORAGES = {
    "multiply": QuotientRemainder(3, "multiply"),
    "concatenate": QuotientRemainder(3, "concatenate"),
    "mixed": MixedDimension(2),
    "hashed": MultipleHashing(7),
    "weighted_rows": WeightedRows(),
}
BATCH, DIM, STEPS = 12, 4, 3


def some_of(names, cases):
    """Every name and every case once, as storage and rule know nothing of each other."""
    return [
        pytest.param(name, *case, marks=[pytest.mark.exhaustive] * (i % len(cases) != j))
        for i, name in enumerate(names)
        for j, case in enumerate(cases)
    ]


def features(storage, optimizer):
    shared = TableConfig("shared", 20, DIM, Uniform(0.5), optimizer, "mean", storage=storage)
    plain = TableConfig("plain", 9, 3, optimizer=optimizer)
    return [
        FeatureConfig("a", shared),
        FeatureConfig("b", shared),
        FeatureConfig("plain", plain),
    ]


def batch():
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 4, BATCH)
    values = tf.constant(rng.integers(0, 20, lengths.sum()))
    bags = tf.RaggedTensor.from_row_lengths(values, lengths)
    ids = {
        "a": tf.constant(rng.integers(0, 20, BATCH)),
        "b": bags,
        "plain": tf.constant(rng.integers(0, 9, BATCH)),
    }
    targets = {
        name: tf.constant(rng.normal(size=(BATCH, 3 if name == "plain" else DIM)), tf.float32)
        for name in ids
    }
    return ids, targets


def train(layer, ids, targets):
    """A step on half the squared distance; returns the vectors and the matrices' gradients."""
    with tf.GradientTape() as tape:
        vectors = layer(ids, training=True)
        loss = sum(tf.nn.l2_loss(vectors[name] - targets[name]) for name in targets)
    return vectors, tape.gradient(loss, layer.trainable_variables)[1:]


def assert_equal(layer, local, got, wanted):
    for name in wanted[0]:
        np.testing.assert_allclose(got[0][name], wanted[0][name], rtol=1e-5, atol=5e-6)
    for own, other in zip(got[1], wanted[1], strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-5)
    own, other = layer.tables.to_arrays(), local.tables.to_arrays()
    assert own.keys() == other.keys()
    for key, value in other.items():
        np.testing.assert_allclose(own[key], value, rtol=1e-5, atol=5e-6, err_msg=key)


@pytest.mark.parametrize(
    ("name", "sharding", "optimizer"),
    some_of(
        STORAGES,
        [
            (None, RowWiseAdagrad(0.1, 0.5, 0.3)),
            (TABLE_WISE, SGD(0.1)),
            (ROW_WISE, Adagrad(0.1, 0.5, 0.3)),
            (COLUMN_WISE, FTRL(0.5, -0.4, 0.3, 0.4, 0.2, 0.7)),
        ],
    ),
    ids=str,
)
def test_mirrored(name, sharding, optimizer):
    configs = features(STORAGES[name], optimizer)
    devices = {TABLE_WISE: (1,), ROW_WISE: (0, 1)}
    plan = None
    if sharding:
        tables = tables_of(stored_features(configs))
        # A table of one column, that of rows' weights, has but one device.
        cut = {t.name: devices.get(sharding, (1, 0)[: t.dim]) for t in tables}
        plan = Plan(2, {name: TablePlan(sharding, where) for name, where in cut.items()})
    strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
    with strategy.scope():
        # Without a plan, tables this small are copied to every replica.
        layer = EmbeddingCollection(configs, plan=plan)
        layer.build()
    local = EmbeddingCollection(configs)
    local.build()
    ids, targets = batch()
    half = BATCH // 2
    own = [
        [{n: c[first : first + half] for n, c in columns.items()} for columns in (ids, targets)]
        for first in (0, half)
    ]

    @tf.function(autograph=False)
    def step():
        def on_replica():
            number = tf.get_static_value(
                tf.distribute.get_replica_context().replica_id_in_sync_group
            )
            return train(layer, *own[number])

        return strategy.run(on_replica)

    for _ in range(STEPS):
        vectors, matrices = step()
        wanted = train(local, ids, targets)
    parts = strategy.experimental_local_results
    joined = {n: tf.concat(parts(vector), 0) for n, vector in vectors.items()}
    summed = [tf.add_n(parts(matrix)) for matrix in matrices]
    assert_equal(layer, local, (joined, summed), wanted)


@pytest.mark.parametrize(
    ("name", "optimizer"),
    some_of(
        STORAGES,
        [
            (SGD(0.1),),
            (Adagrad(0.1, 0.5, 0.3),),
            (RowWiseAdagrad(0.1, 0.5, 0.3),),
            (LazyAdam(0.05, 0.7, 0.8, 0.1),),
            (FTRL(0.5, -0.4, 0.3, 0.4, 0.2, 0.7),),
        ],
    ),
    ids=str,
)
def test_parameter_servers(name, optimizer, monkeypatch):
    configs = features(STORAGES[name], optimizer)
    local = EmbeddingCollection(configs)
    local.build()
    servers = ["/cpu:1", "/cpu:2"]
    tables = tables_of(stored_features(configs))
    plan = Plan(2, {table.name: TablePlan(ROW_WISE, (0, 1)) for table in tables})
    monkeypatch.setattr(
        embedding_collection,
        "make_placement",
        lambda stored, seed, *_: ParameterServerPlacement(stored, plan, servers, seed),
    )
    layer = EmbeddingCollection(configs)
    layer.build()
    ids, targets = batch()
    step = tf.function(train, autograph=False)
    for _ in range(STEPS):
        found, wanted = step(layer, ids, targets), train(local, ids, targets)
    assert_equal(layer, local, found, wanted)
