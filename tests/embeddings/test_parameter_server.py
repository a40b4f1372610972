"""Tables on parameter servers: with one worker they learn what tables on one device learn.

Logical CPUs stand for the servers here; tests/distributed has real ones.
"""

import functools

import numpy as np
import pytest
import tensorflow as tf
from pulled_back import pull

from tf_dlrm.embeddings import (
    FTRL,
    SGD,
    Adagrad,
    FeatureConfig,
    LazyAdam,
    LearningRateSchedule,
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
    TABLE_WISE,
    Plan,
    TablePlan,
)
from tf_dlrm.embeddings.stores.choose import server_plan
from tf_dlrm.embeddings.stores.servers import ParameterServerPlacement
from tf_dlrm.layers import EmbeddingCollection

_SCHEDULE = LearningRateSchedule(0.2, 3, 4, 2)
# With large epsilons and penalties: tiny ones are as good in the wrong place.
_OPTIMIZERS = {
    "sgd": SGD(_SCHEDULE),
    "adagrad": Adagrad(0.1, 0.5, 0.3),
    "row_wise_adagrad": RowWiseAdagrad(_SCHEDULE, 0.5, 0.3),
    "lazy_adam": LazyAdam(_SCHEDULE, 0.7, 0.8, 0.1),
    "ftrl": FTRL(0.1, -0.4, 0.3, 0.4, 0.2, 0.7),
}
# Of tables of 5 and of 8 columns. No rule depends on the sharding, so each has to meet but some; a
# state of one number a row meets all that it may.
_MIXED = {
    TABLE_WISE: ("lazy_adam", "row_wise_adagrad"),
    ROW_WISE: ("row_wise_adagrad", "sgd"),
    COLUMN_WISE: ("ftrl", "lazy_adam"),
}
_BATCH = 13


def _ids(rng, form, rows):
    if form == "one":
        return tf.constant(rng.integers(0, rows, _BATCH))
    if form == "fixed":
        return tf.constant(rng.integers(0, rows, (_BATCH, 3)), tf.int32)
    lengths = rng.integers(0, 4, _BATCH)
    values = rng.integers(0, rows, lengths.sum())
    return tf.RaggedTensor.from_row_lengths(tf.constant(values, tf.int64), lengths)


def _spec(value):
    """Any batch of such tensors, so that a step is traced once."""
    if isinstance(value, tf.RaggedTensor):
        return tf.RaggedTensorSpec([None, None], value.dtype, 1, value.row_splits.dtype)
    return tf.TensorSpec([None, *value.shape[1:]], value.dtype)


def _step(placement, ids, weights, targets):
    bags = {name: make_bags(name, ids[name], weights.get(name)) for name in ids}
    lookup = placement.lookup(bags)
    gradients = {name: lookup.vectors[name] - targets[name] for name in ids}
    return lookup.vectors, pull(placement, lookup, gradients)


def _features(optimizer, servers):
    """Tables of two widths and every sharding, several features of different forms on each."""
    features, tables = [], {}
    for number, sharding in enumerate((TABLE_WISE, ROW_WISE, COLUMN_WISE)):
        for dim, mixed in zip((5, 8), _MIXED[sharding], strict=True):
            own = mixed if optimizer == "mixed" else optimizer
            if sharding == COLUMN_WISE and own == "row_wise_adagrad":
                continue
            table = TableConfig(
                f"{sharding}_{dim}",
                1 if dim == 8 and sharding == ROW_WISE else 30 + 7 * number,
                dim,
                optimizer=_OPTIMIZERS[own],
                combiner=("sum", "mean", "sqrtn")[number],
            )
            holders = tuple((number + k) % servers for k in range(servers))
            tables[table.name] = TablePlan(
                sharding, holders[:1] if sharding == TABLE_WISE else holders
            )
            for form in ("one", "ragged", "weighted") if dim == 5 else ("fixed",):
                features.append(FeatureConfig(f"{table.name}_{form}", table))
    return features, Plan(servers, tables)


def _placements(features, plan):
    servers = [f"/cpu:{k}" for k in range(plan.devices)]
    return ParameterServerPlacement(features, plan, servers, 3), LocalPlacement(features, 3)


@pytest.mark.parametrize(
    ("optimizer", "servers"),
    [
        ("mixed", 2),
        ("adagrad", 3),
        *(pytest.param(name, 2, marks=pytest.mark.exhaustive) for name in _OPTIMIZERS),
    ],
)
def test_every_sharding_learns_what_one_device_learns(optimizer, servers):
    rng = np.random.default_rng(0)
    features, plan = _features(optimizer, servers)
    on_servers, local = _placements(features, plan)
    compiled = None
    for _ in range(3):
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
        if compiled is None:
            specs = tf.nest.map_structure(_spec, (ids, weights, targets))
            step = functools.partial(_step, on_servers)
            compiled = tf.function(step, input_signature=specs, autograph=False)
        vectors, of_weights = compiled(ids, weights, targets)
        expected, expected_of_weights = _step(local, ids, weights, targets)
        for name, vector in expected.items():
            np.testing.assert_allclose(vectors[name], vector, rtol=1e-5, atol=1e-5)
        assert set(of_weights) == set(weights) == set(expected_of_weights)
        for name, gradient in expected_of_weights.items():
            np.testing.assert_allclose(of_weights[name], gradient, rtol=1e-4, atol=1e-5)
    found, arrays = on_servers.tables.to_arrays(), local.tables.to_arrays()
    assert list(found) == list(arrays)
    for key, array in arrays.items():
        np.testing.assert_allclose(found[key], array, rtol=1e-5, atol=2e-6, err_msg=key)
    assert int(on_servers.tables.updates) == 3


def test_two_lookups_are_one_update_and_a_gradient_that_is_not_finite_is_none():
    tables = [TableConfig(name, 9, 4, optimizer=LazyAdam(0.1)) for name in ("cut", "unused")]
    features = [FeatureConfig(table.name, table) for table in tables]
    plan = {"cut": TablePlan(COLUMN_WISE, (0, 1)), "unused": TablePlan(ROW_WISE, (0, 1))}
    on_servers, local = _placements(features, Plan(2, plan))

    def train(placement, scale=1.0):
        def pulled(ids, upstream):
            lookup = placement.lookup({name: make_bags(name, ids) for name in plan})
            return Pulled(lookup, {"cut": upstream})

        upstream = tf.reshape(tf.range(8.0), [2, 4]) - 3.0
        placement.update([pulled([[1, 2], [3, 3]], upstream), pulled([2, 8], scale * upstream)])

    before = on_servers.tables.to_arrays()
    train(on_servers, np.inf)
    for key, array in on_servers.tables.to_arrays().items():
        np.testing.assert_array_equal(array, before[key], err_msg=key)
    assert int(on_servers.tables.skipped_updates) == 1
    for _ in range(2):
        train(on_servers)
        train(local)
    wanted = local.tables.to_arrays()
    for key, array in on_servers.tables.to_arrays().items():
        np.testing.assert_allclose(array, wanted[key], rtol=1e-5, atol=1e-6, err_msg=key)
    np.testing.assert_array_equal(wanted["unused:m"], before["unused:m"])
    assert int(on_servers.tables.updates) == 2


def test_each_server_holds_its_part_and_a_ragged_lookup_finds_the_tables_rows():
    tables = [
        TableConfig("large", 20_000, 4, optimizer=SGD(0.01)),
        TableConfig("small", 30, 4, optimizer=SGD(0.01)),
    ]
    features = [FeatureConfig(table.name, table) for table in tables]
    plan = server_plan(features, 2)
    assert plan.tables["large"] == TablePlan(ROW_WISE, (0, 1))
    assert plan.tables["small"].sharding == TABLE_WISE
    on_servers, _ = _placements(features, plan)
    held = [
        sum(stack.shards[k].rows for stack in on_servers.stacks if stack.shards[k]) for k in (0, 1)
    ]
    assert sum(held) == 20_030 and max(held) == 10_030
    ids = tf.ragged.constant([[0, 19_999], [], [10_000]], dtype=tf.int64)
    bags = {"large": make_bags("large", ids), "small": make_bags("small", tf.constant([1, 1, 29]))}
    vectors = on_servers.lookup(bags).vectors
    rows = on_servers.tables["large"].read_rows().numpy()
    np.testing.assert_allclose(vectors["large"][0], rows[0] + rows[19_999], rtol=1e-6)
    np.testing.assert_array_equal(vectors["large"][1], np.zeros(4))
    np.testing.assert_array_equal(vectors["large"][2], rows[10_000])
    # More rows than are drawn at once, on either server.
    np.testing.assert_array_equal(rows, tables[0].initial_rows(3, 0, 20_000))


@pytest.mark.parametrize("optimizer", ["adagrad", "row_wise_adagrad"])
def test_a_checkpoint_goes_from_servers_to_one_device_and_to_other_servers(tmp_path, optimizer):
    features, plan = _features(optimizer, 3)
    written, local = _placements(features, plan)
    rng = np.random.default_rng(1)
    arrays = {
        key: rng.normal(size=array.shape).astype(array.dtype)
        for key, array in written.tables.to_arrays().items()
    }
    written.tables.assign_arrays(arrays)
    path = tf.train.Checkpoint(tables=written.tables).write(str(tmp_path / "checkpoint"))
    others, _ = _placements(*_features(optimizer, 2))
    for reader in (local, others):
        tf.train.Checkpoint(tables=reader.tables).read(path).assert_consumed()
        for key, array in reader.tables.to_arrays().items():
            np.testing.assert_array_equal(array, arrays[key], err_msg=key)


def test_plans_that_servers_cannot_follow_are_refused():
    features = [FeatureConfig("f", TableConfig("f", 30, 4, optimizer=SGD(0.01)))]
    with pytest.raises(ValueError, match="copies table 'f' to all devices"):
        _placements(features, Plan(2, {"f": TablePlan(DATA_PARALLEL)}))
    with pytest.raises(ValueError, match=r"for 3 device\(s\), but there are 2 parameter server"):
        ParameterServerPlacement(
            features, Plan(3, {"f": TablePlan(ROW_WISE, (0, 1, 2))}), ["/cpu:0", "/cpu:1"]
        )


def test_ragged_rows_of_servers_are_the_exported_rows(tmp_path):
    features = [FeatureConfig("f", TableConfig("f", 20_000, 4, optimizer=SGD(0.01)))]
    on_servers, _ = _placements(features, server_plan(features, 2))
    path = tf.train.Checkpoint(tables=on_servers.tables).write(str(tmp_path / "checkpoint"))
    layer = EmbeddingCollection(features, seed=99)
    layer.build()
    tf.train.Checkpoint(tables=layer.tables).read(path).assert_consumed()
    module = tf.Module()
    module.layer = layer
    module.look_up = tf.function(
        lambda ids: layer({"f": ids}, training=False)["f"],
        input_signature=[tf.RaggedTensorSpec([None, None], tf.int64, 1)],
        autograph=False,
    )
    tf.saved_model.save(module, str(tmp_path / "exported"))
    ids = tf.ragged.constant([[k] for k in range(0, 20_000, 7)] + [[], [19_999, 0]], dtype=tf.int64)
    loaded = tf.saved_model.load(str(tmp_path / "exported"))
    exported = loaded.look_up(ids).numpy()
    looked_up = on_servers.lookup({"f": make_bags("f", ids)}).vectors["f"].numpy()
    rows = on_servers.tables["f"].read_rows().numpy()
    np.testing.assert_array_equal(looked_up[:-2], rows[::7])
    np.testing.assert_array_equal(exported, looked_up)
