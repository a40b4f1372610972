"""What each worker of a test's cluster runs: its part of tables against one device's."""

import numpy as np
import tensorflow as tf

from tf_dlrm.embeddings import (
    FTRL,
    SGD,
    Adagrad,
    FeatureConfig,
    LazyAdam,
    LocalPlacement,
    RowWiseAdagrad,
    TableConfig,
    make_bags,
)
from tf_dlrm.embeddings.lookup import Pulled
from tf_dlrm.embeddings.plan import (
    COLUMN_WISE,
    DATA_PARALLEL,
    ROW_WISE,
    SHARDINGS,
    TABLE_WISE,
    Plan,
    TablePlan,
)
from tf_dlrm.embeddings.stores.choose import make_placement, replicas_here

_BATCH = 13
_FORMS = ("one", "ragged", "weighted", "fixed")
# Constants of which each changes the result; see embeddings/test_optimizers.py.
OPTIMIZERS = (
    SGD(0.1),
    Adagrad(0.1, 0.5, 0.3),
    RowWiseAdagrad(0.1, 0.5, 0.3),
    LazyAdam(0.05, 0.7, 0.8, 0.1),
    FTRL(0.3),
)


def _features(world):
    """A table for every sharding with every optimizer, of both widths and all forms of ids."""
    features, tables = [], {}
    for number, sharding in enumerate(SHARDINGS):
        for place, optimizer in enumerate(OPTIMIZERS):
            if sharding == COLUMN_WISE and isinstance(optimizer, RowWiseAdagrad):
                continue
            kind = type(optimizer).__name__
            dim = (5, 8)[place % 2]
            table = TableConfig(
                f"{sharding}_{kind}",
                1 if (sharding, kind) == (ROW_WISE, "FTRL") else 30 + 7 * number + place,
                dim,
                optimizer=optimizer,
                combiner=("sum", "mean", "sqrtn")[(number + place) % 3],
            )
            devices = tuple((number + place + k) % world for k in range(world))
            cut = {DATA_PARALLEL: (), TABLE_WISE: devices[:1]}.get(sharding, devices)
            tables[table.name] = TablePlan(sharding, cut)
            # Several features share the tables of Adagrad.
            forms = _FORMS if kind == "Adagrad" else (_FORMS[(number + place) % 4],)
            features += [FeatureConfig(f"{table.name}_{form}", table) for form in forms]
    return features, Plan(world, tables)


def _ids(rng, form, rows):
    if form == "one":
        return tf.constant(rng.integers(0, rows, _BATCH))
    if form == "fixed":
        return tf.constant(rng.integers(0, rows, (_BATCH, 3)), tf.int32)
    lengths = rng.integers(0, 4, _BATCH)
    values = rng.integers(0, rows, lengths.sum())
    return tf.RaggedTensor.from_row_lengths(tf.constant(values, tf.int64), lengths)


def _step(placement, ids, weights, targets):
    bags = {name: make_bags(name, ids[name], weights.get(name)) for name in ids}
    lookup = placement.lookup(bags)
    gradients = {name: lookup.vectors[name] - targets[name] for name in ids}
    of_weights = placement.weight_gradients(lookup, gradients)
    placement.update([Pulled(lookup, gradients)])
    return lookup.vectors, of_weights


def _signature(column):
    if isinstance(column, tf.RaggedTensor):
        return tf.RaggedTensorSpec([None, None], column.dtype, ragged_rank=1)
    return tf.TensorSpec([None, *column.shape[1:]], column.dtype)


def check(strategy):
    """Raises AssertionError where three steps differ; returns the names of the optimizers."""
    (replica,) = replicas_here(strategy)
    rng = np.random.default_rng(0)
    features, plan = _features(strategy.num_replicas_in_sync)
    with strategy.scope():
        sharded = make_placement(features, 3, plan)
    local = LocalPlacement(features, 3)
    sharded_step = None

    for cuts in ([0, 5, 13], [0, 0, 13], [0, 13, 13]):  # a worker may have no rows
        ids = {
            f.name: _ids(rng, f.name.rsplit("_", 1)[1], f.table.vocabulary_size) for f in features
        }
        weights = {
            name: tf.ragged.map_flat_values(
                lambda v: tf.constant(rng.uniform(0.5, 2, len(v)), tf.float32), column
            )
            for name, column in ids.items()
            if name.endswith("weighted")
        }
        targets = {
            f.name: tf.constant(rng.normal(size=(_BATCH, f.table.dim)), tf.float32)
            for f in features
        }
        begin, end = cuts[replica], cuts[replica + 1]
        own = [
            {name: column[begin:end] for name, column in columns.items()}
            for columns in (ids, weights, targets)
        ]
        if sharded_step is None:  # traced once for batches of any size
            sharded_step = tf.function(
                lambda *columns: strategy.run(lambda: _step(sharded, *columns)),
                input_signature=tf.nest.map_structure(_signature, own),
            )
        vectors, of_weights = sharded_step(*own)
        expected, expected_of_weights = _step(local, ids, weights, targets)
        for name, vector in expected.items():
            np.testing.assert_allclose(vectors[name], vector[begin:end], rtol=1e-5, atol=1e-5)
        assert set(of_weights) == set(weights)
        for name, gradient in expected_of_weights.items():
            splits = ids[name].row_splits.numpy()
            np.testing.assert_allclose(
                of_weights[name], gradient[splits[begin] : splits[end]], rtol=1e-4, atol=1e-5
            )
    compared = 0
    for name in local.tables:
        for key in local.tables[name].keys():
            whole = local.tables[name].read_rows(slot=key).numpy()
            for held in sharded.tables[name].slices(key):
                rows = whole[held.first_row : held.first_row + held.rows]
                if rows.ndim == 2:
                    rows = rows[:, held.first_column : held.first_column + held.columns]
                np.testing.assert_allclose(
                    held.read(key), rows, rtol=1e-5, atol=2e-6, err_msg=f"{name} {key}"
                )
                compared += rows.size
    everything = sum(array.size for array in local.tables.to_arrays().values())
    assert 0 < compared < everything  # its part, and not all
    assert int(sharded.tables.updates) == 3
    return " ".join(type(optimizer).__name__ for optimizer in OPTIMIZERS)
