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
from tf_dlrm.embeddings.placements.choice import make_placement
from tf_dlrm.embeddings.plan import (
    COLUMN_WISE,
    DATA_PARALLEL,
    ROW_WISE,
    SHARDINGS,
    TABLE_WISE,
    Plan,
    TablePlan,
)
from tf_dlrm.training.distribution_options import DistributionOptions
from tf_dlrm.training.strategy import make_strategy, replicas_here

_BATCH = 13


def _features(optimizer, world):
    """Tables of two widths and every sharding, several features of different forms on each."""
    features, tables = [], {}
    for number, sharding in enumerate(SHARDINGS):
        if sharding == COLUMN_WISE and isinstance(optimizer, RowWiseAdagrad):
            continue
        for dim in (5, 8):
            rows = 1 if dim == 8 and sharding == ROW_WISE else 30 + 7 * number
            table = TableConfig(
                f"{sharding}_{dim}",
                rows,
                dim,
                optimizer=optimizer,
                combiner=("sum", "mean", "sqrtn")[number % 3],
            )
            devices = tuple((number + k) % world for k in range(world))
            cut = {DATA_PARALLEL: (), TABLE_WISE: devices[:1]}.get(sharding, devices)
            tables[table.name] = TablePlan(sharding, cut)
            for form in ("one", "ragged", "weighted") if dim == 5 else ("fixed",):
                features.append(FeatureConfig(f"{table.name}_{form}", table))
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
    return lookup.vectors, placement.update(lookup, gradients)


def _check(optimizer, strategy, replica):
    rng = np.random.default_rng(0)
    world = strategy.num_replicas_in_sync
    features, plan = _features(optimizer, world)
    with strategy.scope():
        sharded = make_placement(features, 3, plan)
    local = LocalPlacement(features, 3)

    @tf.function(reduce_retracing=True)
    def sharded_step(*columns):
        return strategy.run(lambda: _step(sharded, *columns))

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
                    held.read(), rows, rtol=1e-5, atol=2e-6, err_msg=f"{name} {key}"
                )
                compared += rows.size
    everything = sum(array.size for array in local.tables.to_arrays().values())
    assert 0 < compared < everything  # its part, and not all
    assert int(sharded.tables.updates) == 3


def main():
    """Checks every optimizer; says how far it has come."""
    strategy = make_strategy(DistributionOptions("multi_worker_mirrored"))
    (replica,) = replicas_here(strategy)
    for optimizer in (SGD(0.1), Adagrad(0.1), RowWiseAdagrad(0.1), LazyAdam(0.1), FTRL(0.1)):
        _check(optimizer, strategy, replica)
        print(f"{type(optimizer).__name__} is equal", flush=True)


if __name__ == "__main__":
    main()
