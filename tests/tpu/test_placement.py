"""The placement on a TPU as far as it goes without one: it is `local`, in TensorFlow's API."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from pulled_back import pull
from tensorflow.python.tpu import tpu_embedding_v3_utils
from tensorflow.python.trackable import base as trackable

from tf_dlrm.embeddings import (
    FTRL,
    SGD,
    Adagrad,
    FeatureConfig,
    LazyAdam,
    LearningRateSchedule,
    LocalPlacement,
    Normal,
    RowWiseAdagrad,
    Table,
    TableConfig,
    make_bags,
)
from tf_dlrm.embeddings.block import Block
from tf_dlrm.embeddings.lookup import Pulled
from tf_dlrm.embeddings.stores import choose
from tf_dlrm.tpu.config import (
    feature_configs,
    table_config,
)
from tf_dlrm.tpu.placement import TpuPlacement, TpuPlan, local_copy
from tf_dlrm.tpu.replicated import ReplicatedTables
from tf_dlrm.tpu.tables import DealtBlock, DealtLayout, HostTable

_SCHEDULE = LearningRateSchedule(0.4, warmup_steps=4, decay_start_step=4, decay_steps=4)
_ON_TPU = {
    "sgd": SGD(0.1),
    "adagrad": Adagrad(0.1, initial_accumulator=0.1),
    "lazy_adam": LazyAdam(0.1, 0.7, 0.8, 0.1),
    "ftrl": FTRL(0.1, -0.4, 0.3, 0.4, 0.2, 0.7),
    "schedule": SGD(_SCHEDULE),
}
_ALL = {
    **_ON_TPU,
    "lazy_adam_schedule": LazyAdam(_SCHEDULE, 0.7, 0.8, 0.1),
    "row_wise_adagrad": RowWiseAdagrad(0.1, 0.5, 0.3),
    "adagrad_large_epsilon": Adagrad(0.1, 0.5, 0.3),
    "adagrad_from_0": Adagrad(0.1),
}


def _features(optimizer=_ON_TPU["adagrad"]):
    """Tables of two dims, one shared by two features, one small enough for the cores."""
    shared = TableConfig("shared", 50, 4, optimizer=optimizer, combiner="mean")
    wide = TableConfig("wide", 60, 8, Normal(0.1, 0.3), optimizer, "sqrtn", out_of_vocabulary=0)
    small = TableConfig("small", 7, 4, optimizer=optimizer)
    pairs = {"one": shared, "three": shared, "bags": wide, "few": small, "two": small}
    return [FeatureConfig(name, table) for name, table in pairs.items()]


def _batch(rng, batch=6):
    lengths = rng.integers(0, 4, batch)
    values = rng.integers(0, 60, lengths.sum())
    return {
        "one": tf.constant(rng.integers(0, 50, batch)),
        "three": tf.constant(rng.integers(0, 50, (batch, 3)), tf.int32),
        "bags": tf.RaggedTensor.from_row_lengths(tf.constant(values, tf.int64), lengths),
        "few": tf.constant(rng.integers(0, 7, batch)),
        "two": tf.constant(rng.integers(0, 7, (batch, 2))),
    }


def _bags(ids):
    return {name: make_bags(name, value) for name, value in ids.items()}


def _train(placement, ids, targets):
    lookup = placement.lookup(_bags(ids))
    gradients = {name: lookup.vectors[name] - targets[name] for name in lookup.vectors}
    pull(placement, lookup, gradients)
    return lookup.vectors


def _assert_equal_tables(first, second, **tolerance):
    for name in first.tables:
        for key in first.tables[name].keys():
            np.testing.assert_allclose(
                first.tables[name].read_rows(slot=key),
                second.tables[name].read_rows(slot=key),
                err_msg=f"{name} {key}",
                **tolerance,
            )


# Conversion of configs.


def test_schedules_follow_the_counter_and_share_one_optimizer():
    step = tf.Variable(0, dtype=tf.int64)
    tables = [TableConfig(name, 9, 4, optimizer=SGD(_SCHEDULE)) for name in "ab"]
    configs = feature_configs([FeatureConfig(t.name, t) for t in tables], step=step)
    rate = configs["a"].table.optimizer.learning_rate
    assert rate is configs["b"].table.optimizer.learning_rate
    for number in (0, 3, 6, 8):
        step.assign(number)
        assert float(rate()) == float(_SCHEDULE(number))
    np.testing.assert_allclose(float(_SCHEDULE(6)), 0.1)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (RowWiseAdagrad(0.1), "no row-wise Adagrad"),
        (Adagrad(0.1), "initial_accumulator must be above 0, but is 0.0"),
        (Adagrad(0.1, 0.1, epsilon=1e-3), "has no epsilon, but epsilon is 0.001"),
        (LazyAdam(0.1, epsilon=0.0), "needs an epsilon above 0"),
        (FTRL(0.1, initial_accumulator=0.0), "initial_accumulator"),
    ],
)
def test_what_the_hardware_does_not_have_is_an_error_that_names_the_table(optimizer, message):
    features = [FeatureConfig("f", TableConfig("items", 50, 4, optimizer=optimizer))]
    with pytest.raises(ValueError, match=rf"Table 'items' cannot be on .*{message}"):
        TpuPlacement(features, TpuPlan(small_table_rows=10))


def test_features_share_tables_and_keep_names_and_combiners():
    configs = feature_configs(_features(), replica_batch_size=6)
    assert configs["one"].table is configs["three"].table
    assert [c.table.combiner for c in configs.values()] == ["mean"] * 2 + ["sqrtn"] + ["sum"] * 2
    wide = configs["bags"]
    assert (wide.name, wide.table.name) == ("bags", "wide")
    assert (wide.table.vocabulary_size, wide.table.dim) == (60, 8)
    assert wide.output_shape == tf.TensorShape([6]) and wide.max_sequence_length == 0


def test_first_values_of_host_shards_are_those_of_local():
    table = TableConfig("t", 20_000, 3, optimizer=SGD(0.01))
    initializer = table_config(table, None, seed=5).initializer
    whole = table.initial_rows(5, 0, 20_000)
    np.testing.assert_array_equal(initializer((20_000, 3), dtype=tf.float32), whole)
    for first, rows in ((0, 6_667), (6_667, 6_667), (13_334, 6_666)):
        shard = trackable.ShardInfo((rows, 3), (first, 0))
        found = initializer((rows, 3), dtype=tf.float32, shard_info=shard)
        np.testing.assert_array_equal(found, whole[first : first + rows])


def test_first_values_on_sparse_cores_are_those_of_local():
    table = TableConfig("t", 8_500, 3, optimizer=SGD(0.01))
    cores, padded = 8, 8_512  # a multiple of 8 rows for each core
    initializer = table_config(table, None, seed=5, sparse_cores=cores).initializer
    whole = np.zeros((padded, 8), np.float32)
    whole[:8_500, :3] = table.initial_rows(5, 0, 8_500)
    dealt = tpu_embedding_v3_utils.shard_table(cores, tf.constant(whole)).numpy()
    # The last shard goes round to the first rows, as where a table's shards are rotated.
    for first in (0, 2_128, 4_256, 7_448):
        shard = trackable.ShardInfo((2_128, 8), (first, 0))
        found = initializer((padded, 8), dtype=tf.float32, shard_info=shard)
        np.testing.assert_array_equal(found, np.roll(dealt, -first, 0)[:2_128])


# The placement on the host.


def test_first_values_and_lookups_are_those_of_local():
    features = _features()
    placement = TpuPlacement(features, TpuPlan(small_table_rows=10), 3)
    local = LocalPlacement(features, 3)
    assert placement.hardware_features == ("one", "three", "bags")
    _assert_equal_tables(local, placement, rtol=0)
    rng = np.random.default_rng(0)
    for _ in range(3):
        ids = _batch(rng)
        found = placement.lookup(_bags(ids)).vectors
        wanted = local.lookup(_bags(ids)).vectors
        assert set(found) == set(wanted)
        for name, vector in wanted.items():
            np.testing.assert_allclose(found[name], vector, rtol=1e-6, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("optimizer", _ON_TPU.values(), ids=_ON_TPU)
def test_learns_what_local_learns(optimizer):
    features = _features(optimizer)
    both = [TpuPlacement(features, TpuPlan(small_table_rows=10), 3), LocalPlacement(features, 3)]
    rng = np.random.default_rng(1)
    ids = _batch(rng)
    dims = {f.name: f.table.dim for f in features}
    # Bags of any size, so that a step is traced once.
    specs = {name: tf.type_spec_from_value(column) for name, column in ids.items()}
    specs["bags"] = tf.RaggedTensorSpec([6, None], tf.int64, 1)
    of_targets = {name: tf.TensorSpec([6, dim]) for name, dim in dims.items()}
    step = tf.function(
        functools.partial(_train, both[0]), input_signature=[specs, of_targets], autograph=False
    )
    for _ in range(5):
        ids = _batch(rng)
        targets = {n: tf.constant(rng.normal(size=(6, d)), tf.float32) for n, d in dims.items()}
        found, wanted = step(ids, targets), _train(both[1], ids, targets)
        for name, vector in wanted.items():
            np.testing.assert_allclose(found[name], vector, rtol=1e-4, atol=1e-6, err_msg=name)
    _assert_equal_tables(both[1], both[0], rtol=1e-4, atol=1e-6)
    assert both[0].tables.updates.numpy() == 5


def test_what_was_not_used_or_is_not_finite_stays_and_two_lookups_are_refused():
    features = _features(_ON_TPU["adagrad"])
    placement = TpuPlacement(features, TpuPlan(small_table_rows=10), 3)
    ids = _batch(np.random.default_rng(0))
    before = placement.tables.to_arrays()
    lookup = placement.lookup(_bags(ids))
    ones = {name: tf.ones_like(vector) for name, vector in lookup.vectors.items()}
    with pytest.raises(ValueError, match="looked up 2 times on the way to one loss"):
        placement.update([Pulled(lookup, ones)] * 2)
    placement.update([Pulled(lookup, {**ones, "few": ones["few"] * np.nan})])
    for key, array in placement.tables.to_arrays().items():
        if not key.startswith(":"):
            np.testing.assert_array_equal(array, before[key], err_msg=key)
    lookup = placement.lookup(_bags(ids))
    placement.update([Pulled(lookup, {"one": ones["one"]})])
    local = LocalPlacement(features, 3)
    local.update([Pulled(local.lookup(_bags(ids)), {"one": ones["one"]})])
    wanted = local.tables.to_arrays()
    for key, array in placement.tables.to_arrays().items():
        if not key.startswith(":"):
            np.testing.assert_allclose(array, wanted[key], rtol=1e-5, atol=1e-6, err_msg=key)
    for optimizer in ("lazy_adam", "ftrl"):
        moving = TpuPlacement(_features(_ON_TPU[optimizer]), TpuPlan(small_table_rows=10), 3)
        kind = type(_ON_TPU[optimizer]).__name__
        lookup = moving.lookup(_bags(ids))
        with pytest.raises(ValueError, match=f"'three' was looked up but not used.*{kind} would"):
            moving.update([Pulled(lookup, {"one": ones["one"]})])


def test_layer_of_tfrs_with_the_converted_configs_looks_up_what_local_does():
    tfrs = pytest.importorskip("tensorflow_recommenders", exc_type=ImportError)
    features = _features(LazyAdam(0.1))
    ids = _batch(np.random.default_rng(6))
    # TFRS combines ragged and sparse ids only.
    for name in ("three", "two"):
        ids[name] = tf.RaggedTensor.from_tensor(tf.cast(ids[name], tf.int64))
    configs = feature_configs(features, 3, tf.Variable(0, dtype=tf.int64))
    layer = tfrs.layers.embedding.TPUEmbedding(configs, None)
    found = layer(ids)
    wanted = LocalPlacement(features, 3).lookup(_bags(ids)).vectors
    for name, vector in wanted.items():
        np.testing.assert_allclose(found[name], vector, rtol=1e-6, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("combiner", ["sum", "mean", "sqrtn"])
def test_sparse_ids_are_combined_as_local_does(combiner):
    features = [FeatureConfig("f", TableConfig("t", 30, 4, combiner=combiner, optimizer=SGD(0.01)))]
    ids = tf.SparseTensor([[0, 1], [2, 0], [2, 3]], tf.constant([0, 5, 29], tf.int64), [4, 4])
    found = TpuPlacement(features, TpuPlan(small_table_rows=0), 3).lookup(_bags({"f": ids}))
    wanted = LocalPlacement(features, 3).lookup(_bags({"f": ids}))
    np.testing.assert_allclose(found.vectors["f"], wanted.vectors["f"], rtol=1e-6)
    assert not np.any(found.vectors["f"][1]) and np.any(found.vectors["f"][0])


@pytest.mark.parametrize("small_table_rows", [0, 7, 8, 1000])
def test_small_tables_stay_on_the_cores(small_table_rows):
    features = _features()
    placement = TpuPlacement(features, TpuPlan(small_table_rows=small_table_rows))
    wanted = [f.name for f in features if f.table.vocabulary_size >= small_table_rows]
    assert list(placement.hardware_features) == wanted
    assert list(placement.tables) == ["shared", "wide", "small"]


def test_ids_out_of_range():
    features = _features()
    placement = TpuPlacement(features, TpuPlan(small_table_rows=10))
    rng = np.random.default_rng(0)
    ids = _batch(rng)
    # "wide" has a row for them.
    ids["bags"] = tf.ragged.constant([[60, -1], [0, 0], [1], [2], [], []], dtype=tf.int64)
    vectors = placement.lookup(_bags(ids)).vectors
    np.testing.assert_array_equal(vectors["bags"][0], vectors["bags"][1])
    for name, bad in (("three", [[0, 1, 50]] * 6), ("few", [7] * 6)):
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"Feature {name} has the id"):
            placement.lookup(_bags({**ids, name: tf.constant(bad)}))
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"Feature {name} has the id"):
            placement.ready({**ids, name: tf.constant(bad)})


def test_weights_and_ragged_ids_of_small_tables_are_refused():
    table = TableConfig("t", 30, 4, optimizer=SGD(0.01))
    features = [FeatureConfig("f", table)]
    weighted = {"f": make_bags("f", [[1, 2]], [[0.5, 1.0]])}
    ragged = {"f": make_bags("f", tf.ragged.constant([[1], [2, 3]]))}
    in_hardware = TpuPlacement(features, TpuPlan(small_table_rows=0))
    on_cores = TpuPlacement(features, TpuPlan(small_table_rows=100))
    with pytest.raises(ValueError, match="Feature 'f' has weights, but .* gives no gradients"):
        in_hardware.lookup(weighted)
    with pytest.raises(ValueError, match="Feature 'f' has weights, which a table that stays"):
        on_cores.lookup(weighted)
    with pytest.raises(ValueError, match="bags of different sizes.*lower small_table_rows"):
        on_cores.lookup(ragged)


def test_plan_and_strategy_are_checked():
    with pytest.raises(ValueError, match="small_table_rows must be .* but is -1"):
        TpuPlan(small_table_rows=-1)
    with pytest.raises(ValueError, match="replica_batch_size must be .* but is 0"):
        TpuPlan(replica_batch_size=0)
    strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
    with strategy.scope(), pytest.raises(ValueError, match="is a MirroredStrategy of 2 replicas"):
        TpuPlacement(_features())


def test_placements_are_found_by_the_type_of_the_plan_and_then_of_the_strategy():
    class Claimed(tf.distribute.OneDeviceStrategy):
        pass

    class Special(Claimed):
        pass

    class OtherPlan:
        pass

    choose.register(Claimed, lambda features, plan, seed, dtype: ("of the strategy", seed, dtype))
    choose.register(OtherPlan, lambda features, plan, seed, dtype: ("of the plan", seed, dtype))
    features = [FeatureConfig("f", TableConfig("t", 3, 2, optimizer=SGD(0.1)))]
    try:
        with Special("/cpu:0").scope():
            found = choose.make_placement(features, 5)
            of_plan = choose.make_placement(features, 6, OtherPlan(), "bfloat16")
            of_tpu = choose.make_placement(features, 7, TpuPlan())
    finally:
        del choose._MAKERS[Claimed], choose._MAKERS[OtherPlan]
    assert found == ("of the strategy", 5, tf.float32)
    assert of_plan == ("of the plan", 6, tf.bfloat16)
    assert isinstance(of_tpu, TpuPlacement) and of_tpu.checks_ids_on_host
    with tf.distribute.OneDeviceStrategy("/cpu:0").scope():
        assert isinstance(choose.make_placement(features), LocalPlacement)


def test_checkpoints_go_to_local_and_back(tmp_path):
    features = _features(LazyAdam(0.1))
    rng = np.random.default_rng(2)
    ids = _batch(rng)
    targets = {f.name: tf.ones((6, f.table.dim)) for f in features}
    kinds = [
        lambda seed: TpuPlacement(features, TpuPlan(small_table_rows=10), seed),
        lambda seed: LocalPlacement(features, seed),
        lambda seed: TpuPlacement(features, TpuPlan(small_table_rows=0), seed),
    ]
    placement = kinds[0](0)
    _train(placement, ids, targets)
    for number, kind in enumerate([kinds[1], kinds[2], kinds[0]]):
        path = tf.train.Checkpoint(tables=placement.tables).write(str(tmp_path / str(number)))
        taker = kind(number + 1)
        tf.train.Checkpoint(tables=taker.tables).read(path).assert_consumed()
        _assert_equal_tables(placement, taker, rtol=0)
        assert taker.tables.updates.numpy() == placement.tables.updates.numpy() == number + 1
        _train(placement, ids, targets)
        _train(taker, ids, targets)
        _assert_equal_tables(placement, taker, rtol=1e-4, atol=1e-6)
        placement = taker


def test_local_copy_has_rows_slots_and_the_count():
    features = _features(FTRL(0.1))
    placement = TpuPlacement(features, TpuPlan(small_table_rows=10), 3)
    ids = _batch(np.random.default_rng(3))
    _train(placement, ids, {f.name: tf.ones((6, f.table.dim)) for f in features})
    copy = local_copy(placement, features)
    _assert_equal_tables(placement, copy, rtol=0)
    assert copy.tables.updates.numpy() == 1
    found, wanted = (p.lookup(_bags(ids)).vectors for p in (copy, placement))
    for name, vector in wanted.items():
        np.testing.assert_allclose(found[name], vector, rtol=1e-6, atol=1e-7)


# Its parts.


def test_replicated_tables_sum_the_gradients_of_all_replicas():
    table = TableConfig("t", 6, 2, optimizer=LazyAdam(0.1))
    features = [FeatureConfig("f", table), FeatureConfig("g", table)]
    strategy = tf.distribute.MirroredStrategy(
        ["/cpu:0", "/cpu:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
    with strategy.scope():
        tables = ReplicatedTables(features, 3)
    local = LocalPlacement(features, 3)
    ids = {"f": tf.constant([0, 1, 1, 5]), "g": tf.constant([[0, 2], [2, 2], [3, 1], [0, 0]])}
    gradients = {n: tf.constant(np.random.default_rng(5).normal(size=(4, 2)), tf.float32)
                 for n in ids}  # fmt: skip

    @tf.function(autograph=False)
    def step(count):
        def run():
            k = tf.distribute.get_replica_context().replica_id_in_sync_group
            own = _bags({name: value[2 * k : 2 * k + 2] for name, value in ids.items()})
            tables.update(own, {n: g[2 * k : 2 * k + 2] for n, g in gradients.items()}, count, True)

        strategy.run(run)

    for number in range(3):
        step(tf.constant(number, tf.int64))
        pull(local, local.lookup(_bags(ids)), gradients)
    for key in ("rows", "m", "v"):
        wanted = local.tables["t"].read_rows(slot=key)
        np.testing.assert_allclose(
            tables.tables[0].read_rows(slot=key), wanted, rtol=1e-5, atol=1e-6
        )
    for variable in tables.variables:
        first, second = strategy.experimental_local_results(variable)
        np.testing.assert_array_equal(first, second)
    # Written to all copies.
    tables.tables[0].assign_rows(np.ones((2, 2)), 1)
    for copy in strategy.experimental_local_results(tables.variables[0]):
        np.testing.assert_array_equal(copy[1:3], np.ones((2, 2)))


def test_table_over_hosts_reads_and_writes_through_its_hooks():
    config = TableConfig("t", 7, 2, optimizer=SGD(0.01))
    hosts = [tf.Variable(tf.zeros((rows, 2))) for rows in (3, 2, 2)]
    blocks = [
        Block(config, first, v.shape[0], 0, 2, variables={"rows": v})
        for v, first in zip(hosts, (0, 3, 5), strict=True)
    ]
    called = []
    table = HostTable(config, blocks, lambda: called.append("read"), lambda: called.append("write"))
    values = np.arange(10.0).reshape(5, 2)
    table.assign_rows(values, 1)
    assert called == ["write"]
    np.testing.assert_array_equal(table.read_rows(1, 5), values)
    assert called == ["write", "read"]
    np.testing.assert_array_equal(hosts[1], values[2:4])
    np.testing.assert_array_equal(hosts[2], [values[4], [0, 0]])
    with pytest.raises(ValueError, match="outside table 't' of 7 rows"):
        table.read_rows(5, 3)


def test_table_dealt_out_to_sparse_cores_is_as_tensorflow_lays_it_out():
    config = TableConfig("t", 13, 3, optimizer=SGD(0.01))
    chips, cores, rotation, offset, rows_of_core = 2, 4, 3, 2, 6
    shards = [tf.Variable(tf.random.normal((cores // chips * rows_of_core, 4))) for _ in range(2)]
    layout = DealtLayout(cores, offset, rotation)
    block = DealtBlock.whole(config, variables={"rows": shards}, layout=layout)
    table = Table(config, [block])

    def unshuffled():
        return tpu_embedding_v3_utils.unshuffle_from_sc_to_cpu(
            tf.concat(shards, 0), cores, offset, size_in_shard=4, shard_rotation=rotation
        )[:13, :3]

    np.testing.assert_array_equal(table.read_rows(), unshuffled())
    np.testing.assert_array_equal(table.read_rows(4, 5), unshuffled()[4:9])
    values = np.arange(15, dtype=np.float32).reshape(5, 3)
    before = unshuffled().numpy()
    table.assign_rows(values, 6)
    before[6:11] = values
    np.testing.assert_array_equal(unshuffled(), before)
