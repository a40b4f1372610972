"""Tables cut over replicas: what they learn is what tables on one device learn."""

import functools
import itertools

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
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
    stack,
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
from tf_dlrm.embeddings.stores.choose import make_placement
from tf_dlrm.kernels.use import kernels_allowed

_SCHEDULE = LearningRateSchedule(0.2, 3, 4, 2)
# With large epsilons and penalties: tiny ones are as good in the wrong place.
_OPTIMIZERS = {
    "sgd": SGD(_SCHEDULE),
    "adagrad": Adagrad(0.1, 0.5, 0.3),
    "row_wise_adagrad": RowWiseAdagrad(_SCHEDULE, 0.5, 0.3),
    "lazy_adam": LazyAdam(_SCHEDULE, 0.7, 0.8, 0.1),
    "ftrl": FTRL(0.1, -0.4, 0.3, 0.4, 0.2, 0.7),
}
# Columns, optimizers and forms of ids of the tables of each sharding. Neither a rule nor a form
# depends on the sharding, so each has to meet but some; a state of one number a row meets all that
# it may, and weights meet columns, over which their gradients are summed.
_OF_ROWS = {
    TABLE_WISE: ((5, "row_wise_adagrad", "weighted"),),
    ROW_WISE: ((5, "row_wise_adagrad", "ragged"),),
    DATA_PARALLEL: ((5, "row_wise_adagrad", "one"),),
}
_MIXED = {
    TABLE_WISE: ((8, "sgd", "one"),),
    ROW_WISE: ((8, "ftrl", "fixed"),),
    COLUMN_WISE: ((5, "lazy_adam", "weighted"),),
}
# Bags that are pooled by the owner of the table or of its columns, beside such that are not.
_POOLED = {
    TABLE_WISE: ((3, "adagrad", "ragged"), (3, "adagrad", "many")),
    COLUMN_WISE: ((5, "adagrad", "many"), (5, "adagrad", "weighted")),
}
# One stack of tables cut in several ways, and columns that cannot be shared out evenly.
_UNEVEN = {
    TABLE_WISE: ((5, "adagrad", "one"),),
    ROW_WISE: ((5, "adagrad", "ragged"),),
    COLUMN_WISE: ((5, "adagrad", "weighted"), (5, "adagrad", "fixed")),
}


def _every(optimizer):
    """Every form with every sharding."""
    forms = [(5, "one"), (5, "ragged"), (5, "weighted"), (8, "fixed"), (8, "many")]
    shardings = [s for s in SHARDINGS if (s, optimizer) != (COLUMN_WISE, "row_wise_adagrad")]
    return {s: tuple((dim, optimizer, form) for dim, form in forms) for s in shardings}


@functools.cache
def _mirrored(world):
    return tf.distribute.MirroredStrategy([f"/cpu:{k}" for k in range(world)])


def _devices(sharding, world, first=0):
    if sharding == DATA_PARALLEL:
        return ()
    if sharding == TABLE_WISE:
        return (first % world,)
    return tuple((first + k) % world for k in range(world))


def _ids(rng, form, rows, batch):
    if form == "one":
        return tf.constant(rng.integers(0, rows, batch))
    if form == "fixed":
        return tf.constant(rng.integers(0, rows, (batch, 3)), tf.int32)
    if form == "many":  # which the owner of the table pools
        return tf.constant(rng.integers(0, rows, (batch, 9)), tf.int32)
    lengths = rng.integers(0, 4, batch)
    values = rng.integers(0, rows, lengths.sum())
    return tf.RaggedTensor.from_row_lengths(tf.constant(values, tf.int64), lengths)


def _spec(value):
    """Any batch of such tensors, so that a step is traced once."""
    if isinstance(value, tf.RaggedTensor):
        return tf.RaggedTensorSpec([None, None], value.dtype, 1, value.row_splits.dtype)
    return tf.TensorSpec([None, *value.shape[1:]], value.dtype)


class _Both:
    """The same tables under a strategy and on one device, there by TensorFlow's operations."""

    def __init__(self, features, plan, dtype="float32", kernels=True):
        self._kernels = kernels
        self.features = features
        self.strategy = _mirrored(plan.devices)
        with self.strategy.scope():
            self.sharded = make_placement(features, 3, plan, dtype)
        self.local = LocalPlacement(features, 3)
        self._sharded_step = None

    def _step(self, placement, ids, weights, targets):
        bags = {name: make_bags(name, ids[name], weights.get(name)) for name in ids}
        lookup = placement.lookup(bags)
        vectors = lookup.vectors
        gradients = {name: vectors[name] - targets[name] for name in vectors}
        return vectors, pull(placement, lookup, gradients)

    def _on_replicas(self, parts):
        def on_replica():
            context = tf.distribute.get_replica_context()
            number = tf.get_static_value(context.replica_id_in_sync_group)
            with kernels_allowed(self._kernels):
                return self._step(self.sharded, *parts[number])

        return self.strategy.run(on_replica)

    def step(self, ids, weights, targets, cuts):
        """One step of both; returns the replicas' vectors and gradients of weights, and local's."""
        columns, ends = (ids, weights, targets), itertools.pairwise(cuts)
        parts = [[{n: c[a:b] for n, c in named.items()} for named in columns] for a, b in ends]
        if self._sharded_step is None:
            specs = tf.nest.map_structure(_spec, parts)
            self._sharded_step = tf.function(self._on_replicas, [specs], autograph=False)
        vectors, of_weights = self._sharded_step(parts)
        local = self._step(self.local, ids, weights, targets)
        return self._joined(vectors), self._joined(of_weights), *local

    def _joined(self, columns):
        local = self.strategy.experimental_local_results
        return {name: tf.concat(local(column), 0) for name, column in columns.items()}

    def assert_equal_tables(self, atol=1e-6):
        sharded, local = self.sharded.tables.to_arrays(), self.local.tables.to_arrays()
        assert list(sharded) == list(local)
        for key, array in local.items():
            # Sums of large terms may be small: FTRL's linear slots are.
            of_terms = 2e-7 * float(np.abs(array).max(initial=0.0))
            np.testing.assert_allclose(
                sharded[key], array, rtol=1e-5, atol=max(atol, of_terms), err_msg=key
            )


def _targets(rng, features, batch):
    return {
        f.name: tf.constant(rng.normal(size=(batch, f.table.dim)), tf.float32) for f in features
    }


@pytest.mark.parametrize(
    ("cases", "world"),
    [
        pytest.param(_OF_ROWS, 2, id="of_rows-2"),
        pytest.param(_MIXED, 2, id="mixed-2"),
        pytest.param(_POOLED, 3, id="pooled-2", marks=pytest.mark.slow),
        pytest.param(_POOLED, 4, id="pooled-4", marks=pytest.mark.slow),
        pytest.param(_UNEVEN, 3, id="uneven-3", marks=pytest.mark.slow),
        *(
            pytest.param(_every(name), 2, id=f"{name}-2", marks=pytest.mark.exhaustive)
            for name in _OPTIMIZERS
        ),
    ],
)
def test_every_sharding_learns_what_one_device_learns(cases, world):
    rng = np.random.default_rng(0)
    features, tables, plans = [], {}, {}
    for number, (sharding, entries) in enumerate(cases.items()):
        for dim, optimizer, form in entries:
            name = f"{sharding}_{dim}"
            if name not in tables:
                tables[name] = TableConfig(
                    name,
                    int(rng.integers(20, 60)),
                    dim,
                    optimizer=_OPTIMIZERS[optimizer],
                    combiner=("sum", "mean", "sqrtn")[number % 3],
                )
                plans[name] = TablePlan(sharding, _devices(sharding, world, dim))
            features.append(FeatureConfig(f"{name}_{form}", tables[name]))
    both = _Both(features, Plan(world, plans))
    for cuts in ([0, 5, 11, 13], [0, 0, 6, 13], [0, 7, 7, 13]):
        ids = {
            f.name: _ids(rng, f.name.rsplit("_", 1)[1], f.table.vocabulary_size, 13)
            for f in features
        }
        weights = {
            name: tf.ragged.map_flat_values(
                lambda v: tf.constant(rng.uniform(0.5, 2, len(v)), tf.float32), column
            )
            for name, column in ids.items()
            if name.endswith("weighted")
        }
        found = both.step(ids, weights, _targets(rng, features, 13), cuts[:world] + [13])
        vectors, of_weights, local_vectors, local_of_weights = found
        for name in local_vectors:
            np.testing.assert_allclose(vectors[name], local_vectors[name], rtol=1e-5, atol=1e-5)
        assert set(local_of_weights) == set(weights)
        for name, gradient in local_of_weights.items():
            np.testing.assert_allclose(of_weights[name], gradient, rtol=1e-4, atol=1e-5)
    both.assert_equal_tables(2e-6)
    assert int(both.sharded.tables.updates) == 3
    assert [int(counter) for counter in both.sharded.tables.counters] == [3] * world


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_bags_that_are_all_empty(sharding):
    table = TableConfig("t", 9, 4, optimizer=Adagrad(0.1), combiner="mean")
    devices = _devices(sharding, 2, 1)
    both = _Both([FeatureConfig("t", table)], Plan(2, {"t": TablePlan(sharding, devices)}))
    before = both.local.tables.to_arrays()
    ids = {"t": tf.RaggedTensor.from_row_lengths(tf.zeros([0], tf.int64), [0, 0, 0])}
    for cuts in ([0, 1, 3], [0, 3, 3]):
        vectors = both.step(ids, {}, {"t": tf.ones([3, 4])}, cuts)[0]
        np.testing.assert_array_equal(vectors["t"], np.zeros([3, 4]))
    both.assert_equal_tables(0)
    after = both.sharded.tables.to_arrays()
    assert len(after) == 3  # rows, slots and the count of updates, which alone goes on
    for key, array in after.items():
        np.testing.assert_array_equal(array, before[key] if array.ndim else 2, err_msg=key)


@st.composite
def _cases(draw, largest_world, most_tables):
    world = draw(st.integers(2, largest_world))
    features, tables = [], {}
    for number in range(draw(st.integers(1, most_tables))):
        optimizer = draw(st.sampled_from(list(_OPTIMIZERS)))
        dim = draw(st.integers(1, 6))
        table = TableConfig(
            f"t{number}", draw(st.integers(1, 9)), dim, optimizer=_OPTIMIZERS[optimizer]
        )
        sharding = draw(st.sampled_from(SHARDINGS))
        devices = _devices(sharding, world, draw(st.integers(0, 3)))
        if sharding == COLUMN_WISE:
            devices = devices[: 1 if optimizer == "row_wise_adagrad" else dim]
        if sharding == ROW_WISE:
            devices = devices[: draw(st.integers(1, world))]
        tables[table.name] = TablePlan(sharding, devices)
        for form in draw(st.sets(st.sampled_from(["one", "fixed", "many", "ragged"]), min_size=1)):
            features.append(FeatureConfig(f"{table.name}_{form}", table))
    batch = draw(st.integers(1, 9))
    inner = sorted(draw(st.lists(st.integers(0, batch), min_size=world - 1, max_size=world - 1)))
    return features, Plan(world, tables), batch, [0, *inner, batch], draw(st.integers(0, 99))


@hypothesis.settings(max_examples=2)
@hypothesis.given(_cases(2, 1))
def test_some_plan_learns_what_one_device_learns(case):
    _assert_learns_the_same(*case)


@pytest.mark.slow
@hypothesis.settings(max_examples=5)
@hypothesis.given(_cases(4, 4))
def test_any_plan_learns_what_one_device_learns(case):
    _assert_learns_the_same(*case)


@pytest.mark.exhaustive
@hypothesis.settings(max_examples=100)
@hypothesis.given(_cases(4, 4))
def test_many_plans_learn_what_one_device_learns(case):
    _assert_learns_the_same(*case)


def _assert_learns_the_same(features, plan, batch, cuts, seed):
    rng = np.random.default_rng(seed)
    both = _Both(features, plan)
    for _ in range(2):
        ids = {
            f.name: _ids(rng, f.name.split("_")[1], f.table.vocabulary_size, batch)
            for f in features
        }
        vectors, _, local, _ = both.step(ids, {}, _targets(rng, features, batch), cuts)
        for name in local:
            np.testing.assert_allclose(vectors[name], local[name], rtol=1e-5, atol=1e-5)
    both.assert_equal_tables(2e-6)


def _small(world=2, **options):
    tables = [
        TableConfig("rows", 1000, 4, optimizer=Adagrad(0.1)),
        TableConfig("columns", 600, 6, optimizer=Adagrad(0.1)),
        TableConfig("whole", 500, 4, optimizer=Adagrad(0.1)),
        TableConfig("small", 9, 4, optimizer=Adagrad(0.1)),
    ]
    features = [FeatureConfig(table.name, table) for table in tables]
    kinds = (ROW_WISE, COLUMN_WISE, TABLE_WISE, DATA_PARALLEL)
    plan = {t.name: TablePlan(k, _devices(k, world)) for t, k in zip(tables, kinds, strict=True)}
    return _Both(features, Plan(world, plan), **options)


def test_each_replica_holds_its_share_and_no_more():
    both = _small()
    held = [0, 0]
    for sharded in both.sharded.stacks:
        for device, own in enumerate(sharded.shards):
            for variable in own.variables if own else ():
                assert variable.device.endswith(f"CPU:{device}")
                held[device] += int(np.prod(variable.shape))
    half = 1000 * 4 // 2 + 600 * 6 // 2 + 9 * 4
    assert held == [2 * (half + 500 * 4), 2 * half]  # each table has one slot of its size


def test_bfloat16_halves_the_digits_of_what_travels_only():
    both = _small(dtype="bfloat16")
    rng = np.random.default_rng(0)
    ids = {f.name: _ids(rng, "one", f.table.vocabulary_size, 8) for f in both.features}
    vectors, _, local, _ = both.step(ids, {}, _targets(rng, both.features, 8), [0, 4, 8])
    for name in local:
        exact = np.asarray(local[name])
        error = np.abs(vectors[name] - exact)
        assert (error <= np.abs(exact) / 128).all()
        assert error.any() == (name != "small"), name
    # A table on every replica gets its vectors at home, but gradients that travelled.
    difference = both.sharded.tables["small"].read_rows() - both.local.tables["small"].read_rows()
    assert 0 < np.abs(difference).max() < 1e-3


def test_rows_by_logical_numbers():
    both = _small()
    rng = np.random.default_rng(0)
    for name in both.sharded.tables:
        table, local = both.sharded.tables[name], both.local.tables[name]
        size = table.config.vocabulary_size
        for slot in table.keys():
            for start, count in ((0, size), (size // 3, size // 2), (size - 1, 1), (2, 0)):
                np.testing.assert_array_equal(
                    table.read_rows(start, count, slot), local.read_rows(start, count, slot)
                )
            values = rng.normal(size=(size // 2, table.config.dim)).astype("f")
            table.assign_rows(values, size // 3, slot)
            got = table.read_rows(slot=slot).numpy()
            np.testing.assert_array_equal(got[size // 3 : size // 3 + size // 2], values)
            np.testing.assert_array_equal(got[: size // 3], local.read_rows(0, size // 3, slot))
        with pytest.raises(ValueError, match=f"outside table '{name}' of {size} rows"):
            table.read_rows(size - 1, 2)
    for own in both.sharded.stacks[-1].shards:
        np.testing.assert_array_equal(own.variable, both.sharded.tables["small"].read_rows())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Tables after one step, their checkpoint and what it holds; and another batch."""
    rng = np.random.default_rng(0)
    both = _small()
    ids = {f.name: _ids(rng, "one", f.table.vocabulary_size, 8) for f in both.features}
    targets = _targets(rng, both.features, 8)
    both.step(ids, {}, targets, [0, 3, 8])
    path = str(tmp_path_factory.mktemp("checkpoint") / "saved")
    path = tf.train.Checkpoint(tables=both.sharded.tables).save(path)
    return both, path, both.sharded.tables.to_arrays(), (ids, {}, targets)


@pytest.mark.parametrize(("to_world", "elements"), [(1, 1 << 24), (2, 30), (4, 1 << 24)])
def test_a_checkpoint_knows_no_placement(trained, to_world, elements, monkeypatch):
    both, path, expected, _ = trained
    monkeypatch.setattr(stack, "_CHUNK_ELEMENTS", elements)  # of a slice that is read
    if to_world == 1:
        other = LocalPlacement(both.features, 8)
    else:
        other = _small(to_world).sharded
    tf.train.Checkpoint(tables=other.tables).restore(path).assert_consumed()
    got = other.tables.to_arrays()
    for key, array in expected.items():
        np.testing.assert_array_equal(got[key], array, err_msg=key)
    assert [int(counter) for counter in other.tables.counters] == [1] * to_world


def test_arrays_of_all_tables_are_taken_by_all_replicas():
    both = _small()
    arrays = {
        key: np.full(array.shape, number, array.dtype)
        for number, (key, array) in enumerate(both.sharded.tables.to_arrays().items(), 3)
    }
    both.sharded.tables.assign_arrays(arrays)
    for key, array in both.sharded.tables.to_arrays().items():
        np.testing.assert_array_equal(array, arrays[key], err_msg=key)
    updates = int(arrays[":updates"])
    assert [int(counter) for counter in both.sharded.tables.counters] == [updates] * 2


@pytest.mark.slow
def test_two_lookups_are_one_update_unless_one_replica_has_a_gradient_that_is_not_finite():
    optimizer = LazyAdam(0.1)
    tables = [TableConfig(name, 9, 4, optimizer=optimizer) for name in ("cut", "copied", "unused")]
    tables.append(TableConfig("pooled", 9, 4, optimizer=optimizer, combiner="mean"))
    features = [FeatureConfig(table.name, table) for table in tables]
    features.append(FeatureConfig("of_pooled_rows_unused", tables[-1]))
    shardings = (ROW_WISE, DATA_PARALLEL, ROW_WISE, TABLE_WISE)
    plan = {t.name: TablePlan(k, _devices(k, 2)) for t, k in zip(tables, shardings, strict=True)}
    both = _Both(features, Plan(2, plan))
    first = tf.constant([[1, 2], [3, 3], [8, 1], [0, 2]])
    second = first[:, :1] // 2

    def train(placement, rows, scale):
        def pulled(ids, names, upstream):
            bags = {f.name: make_bags(f.name, ids[rows]) for f in features}
            # Of ten ids each, which their owner pools, and of five, whose rows it hands out.
            bags["pooled"] = make_bags("pooled", tf.tile(ids[rows], [1, 5]))
            bags["of_pooled_rows_unused"] = make_bags(
                "unused", tf.fill([rows.stop - rows.start, 9], 7)
            )
            lookup = placement.lookup(bags)
            return Pulled(lookup, dict.fromkeys(names, upstream[rows] * scale))

        upstream = tf.reshape(tf.range(16.0), [4, 4]) - 3.0
        placement.update(
            [
                pulled(first, ("cut", "copied", "pooled"), upstream),
                pulled(second, ("cut", "pooled"), 2 * upstream),
            ]
        )

    @tf.function(autograph=False)
    def step(scales):
        def on_replica():
            context = tf.distribute.get_replica_context()
            number = tf.get_static_value(context.replica_id_in_sync_group)
            train(both.sharded, slice(2 * number, 2 * number + 2), scales[number])

        both.strategy.run(on_replica)

    before = both.sharded.tables.to_arrays()
    step(tf.constant([1.0, np.nan]))
    for key, array in both.sharded.tables.to_arrays().items():
        np.testing.assert_array_equal(array, before[key], err_msg=key)
    for _ in range(2):
        step(tf.constant([1.0, 1.0]))
        train(both.local, slice(0, 4), 1.0)
    both.assert_equal_tables()
    after = both.sharded.tables.to_arrays()
    np.testing.assert_array_equal(after["unused:m"], before["unused:m"])
    np.testing.assert_array_equal(after["pooled:m"][7], before["pooled:m"][7])
    assert np.abs(after["pooled:m"][:4]).min() > 0
    assert np.abs(after["cut:rows"] - before["cut:rows"]).max() > 0.1
    assert [int(counter) for counter in both.sharded.tables.counters] == [2, 2]
    assert int(both.sharded.tables.skipped_updates) == 1


def test_outside_of_replicas_rows_are_looked_up_but_not_trained():
    both = _small()
    rng = np.random.default_rng(0)
    ids = {f.name: _ids(rng, "fixed", f.table.vocabulary_size, 8) for f in both.features}
    bags = {name: make_bags(name, column) for name, column in ids.items()}
    found, local = both.sharded.lookup(bags), both.local.lookup(bags)
    for name in local.vectors:
        np.testing.assert_allclose(found.vectors[name], local.vectors[name], rtol=1e-6)
    with pytest.raises(ValueError, match="can be trained within strategy.run only"):
        pull(both.sharded, found, found.vectors)


def test_an_id_outside_its_table_stops_all_replicas(trained):
    both, _, _, (ids, weights, targets) = trained
    bad = ids | {"whole": tf.constant([1, 2, 3, 500, 0, 0, 0, 0], tf.int64)}
    with pytest.raises(tf.errors.InvalidArgumentError, match="Feature whole has the id 500"):
        both.step(bad, weights, targets, [0, 5, 8])
    both.step(ids, weights, targets, [0, 5, 8])


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan(3, {"t": TablePlan(ROW_WISE, (0, 1))}), r"for 3 device\(s\), but .* 2 replica"),
        (Plan(2, {}), r"places no table \['t'\]"),
        (Plan(2, {"t": TablePlan(DATA_PARALLEL), "u": TablePlan(DATA_PARALLEL)}), "only .'t'."),
        (Plan(2, {"t": TablePlan(COLUMN_WISE, (0, 1))}), "RowWiseAdagrad, keeps a number for each"),
    ],
)
def test_plans_that_do_not_fit(plan, message):
    table = TableConfig("t", 10, 4, optimizer=RowWiseAdagrad(0.1))
    with _mirrored(2).scope(), pytest.raises(ValueError, match=message):
        make_placement([FeatureConfig("f", table)], 0, plan)


def test_a_dtype_that_does_not_travel():
    features = [FeatureConfig("f", TableConfig("t", 10, 4, optimizer=SGD(0.01)))]
    with pytest.raises(ValueError, match="must be one of .* but is 'float16'"):
        make_placement(features, 0, None, "float16")
