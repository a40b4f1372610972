"""Tables that are stored as smaller ones: values against NumPy, and what they refuse."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.embeddings import (
    FTRL,
    SGD,
    Adagrad,
    Constant,
    FeatureConfig,
    LazyAdam,
    LocalPlacement,
    MixedDimension,
    MultipleHashing,
    QuotientRemainder,
    RowWiseAdagrad,
    TableConfig,
    Uniform,
    WeightedRows,
    mixed_dimensions,
    native,
    stored_features,
)
from tf_dlrm.layers import EmbeddingCollection
from tfrecords.hashing import hash_numbers

STORAGES = {
    "multiply": QuotientRemainder(3, "multiply"),
    "add": QuotientRemainder(3, "add"),
    "concatenate": QuotientRemainder(3, "concatenate"),
    "mixed": MixedDimension(2),
    "hashed": MultipleHashing(7),
    "hashed_concatenate": MultipleHashing(7, 4, "concatenate"),
    "weighted_rows": WeightedRows(),
}
ROWS, DIM = 20, 8


def table(storage, optimizer=None, **options):
    initializer = Uniform(0.5)
    optimizer = optimizer or SGD(0.01)
    return TableConfig("t", ROWS, DIM, initializer, optimizer, storage=storage, **options)


def expanded(layer):
    """Every id's vector [ROWS, DIM], from the layer's own numbers, in NumPy."""
    storage = layer.features[0].table.storage
    held = {name: layer.tables[name].read_rows().numpy() for name in layer.tables}
    ids = np.arange(ROWS)
    if isinstance(storage, QuotientRemainder):
        first, second = held["t.quotient"][ids // 3], held["t.remainder"][ids % 3]
        if storage.operation == "concatenate":
            return np.concatenate([first, second], 1)
        return first * second if storage.operation == "multiply" else first + second
    if isinstance(storage, MixedDimension):
        return held["t"] @ np.asarray(layer.trainable_variables[-1])
    if isinstance(storage, MultipleHashing):
        rows = [hash_numbers(k, ids) % np.uint64(7) for k in range(storage.hashes)]
        found = [held["t"][row.astype(int)] for row in rows]
        return np.concatenate(found, 1) if storage.operation == "concatenate" else sum(found)
    return held["t"] * held["t.weights"]


def mixed_up(layer):
    """Moves every table off its first values, so that ones and equal columns hide nothing."""
    rng = np.random.default_rng(5)
    for name in layer.tables:
        held = layer.tables[name]
        held.assign_rows(tf.constant(rng.normal(size=held.shape()), tf.float32), 0)


def test_many_stored_ids_of_one_feature_are_no_rows_of_another(monkeypatch):
    read, real = [], LocalPlacement.read

    def counted(self, asked):
        read.extend(int(tf.size(own.bags[f.name].ids)) for own in asked for f in own.features)
        return real(self, asked)

    monkeypatch.setattr(LocalPlacement, "read", counted)
    plain = [TableConfig(f"p{k}", 9, DIM, Uniform(0.5), SGD(0.5)) for k in range(3)]
    stored = table(QuotientRemainder(3), SGD(0.5))
    layer = EmbeddingCollection([FeatureConfig(t.name, t) for t in (stored, *plain)])
    ids = {"t": np.arange(40).reshape(4, 10) % ROWS, **{t.name: [0, 3, 8, 3] for t in plain}}
    layer.build()
    before = {t.name: layer.tables[t.name].read_rows().numpy() for t in plain}
    vectors = expanded(layer)[ids["t"]].sum(1)
    with tf.GradientTape() as tape:
        found = layer(ids, training=True)
        loss = tf.add_n([tf.reduce_sum(vector) for vector in found.values()])
    # Of 40 ids a quotient's and a remainder's row each; of the other features one row a bag.
    assert sum(read) == 2 * 40 + 3 * 4
    tape.gradient(loss, layer.trainable_variables)
    np.testing.assert_allclose(found["t"], vectors, rtol=1e-5)
    for name, rows in before.items():
        np.testing.assert_array_equal(found[name], rows[ids[name]])
        rows[[0, 8]] -= 0.5
        rows[3] -= 1.0
        np.testing.assert_allclose(layer.tables[name].read_rows(), rows, rtol=1e-6)


def test_kernels_take_stored_bags_beside_single_ids_forward_and_backward(monkeypatch):
    """The stack has 40 bags of a quotient's and a remainder's rows, and 4 of each other table."""
    rng, optimizer = np.random.default_rng(3), RowWiseAdagrad(0.1, 0.3, 0.4)
    tables = [table(QuotientRemainder(3), optimizer)]
    tables += [TableConfig(f"p{k}", 9, DIM, Uniform(0.5), optimizer) for k in range(2)]
    ids = {"t": tf.constant(rng.integers(0, ROWS, (4, 10)))}
    ids |= {t.name: tf.constant(rng.integers(0, 9, 4), tf.int32) for t in tables[1:]}
    upstream = {name: tf.constant(rng.normal(size=(4, DIM)), tf.float32) for name in ids}
    found, called = {}, []

    def counted(name, real, *args):
        called.append(name)
        return real(*args)

    for name in ("lookup", "update", "update_rows"):
        monkeypatch.setattr(native, name, functools.partial(counted, name, getattr(native, name)))
    for kernels in ("native", "tensorflow"):
        monkeypatch.setenv("TF_DLRM_KERNELS", kernels)
        layer = EmbeddingCollection([FeatureConfig(t.name, t) for t in tables])
        layer.build()
        mixed_up(layer)
        before = {name: layer.tables[name].read_rows().numpy() for name in layer.tables}

        with tf.GradientTape() as tape:
            vectors = layer(ids, training=True)
            loss = tf.add_n([tf.reduce_sum(upstream[n] * v) for n, v in vectors.items()])
        tape.gradient(loss, layer.trainable_variables)
        found[kernels] = {
            **vectors,
            **{f"after {n}": layer.tables[n].read_rows() for n in layer.tables},
        }
    assert called == ["lookup", "update"]
    for name, value in found["tensorflow"].items():
        np.testing.assert_allclose(found["native"][name], value, rtol=1e-5, atol=1e-5, err_msg=name)

    quotient, remainder = ids["t"] // 3, ids["t"] % 3
    rows = before["t.quotient"][quotient], before["t.remainder"][remainder]
    np.testing.assert_allclose(
        found["native"]["t"], (rows[0] * rows[1]).sum(1), rtol=1e-5, atol=1e-5
    )
    pulled = upstream["t"].numpy()[:, None]
    taught = {
        "t.quotient": (quotient, pulled * rows[1]),
        "t.remainder": (remainder, pulled * rows[0]),
    }
    taught |= {f"p{k}": (ids[f"p{k}"], upstream[f"p{k}"]) for k in range(2)}
    for name, (places, gradients) in taught.items():
        summed = np.zeros_like(before[name])
        np.add.at(summed, np.asarray(places), np.asarray(gradients))
        total = 0.3 + (summed**2).mean(1, keepdims=True)
        wanted = before[name] - 0.1 * summed / (np.sqrt(total) + 0.4)
        np.testing.assert_allclose(found["native"][f"after {name}"], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("combiner", ["sum", "mean", "sqrtn"])
@pytest.mark.parametrize("name", STORAGES)
def test_vectors_equal_those_of_every_id_pooled(name, combiner):
    config = table(STORAGES[name], combiner=combiner)
    plain = FeatureConfig("plain", TableConfig("p", 5, 3, optimizer=SGD(0.01)))
    features = [FeatureConfig(n, config) for n in ("one", "fixed", "ragged", "sparse", "weighted")]
    layer = EmbeddingCollection([*features, plain])
    layer.build()
    mixed_up(layer)
    rng = np.random.default_rng(0)
    bags = [[1, 1, 4], [], [19], [7, 3, 3, 18, 0]]
    weights = [[0.5, 2.0, -0.25], [], [1.5], [1.0, 2.0, 3.0, 0.5, 0.25]]
    fixed = rng.integers(0, ROWS, (4, 3)).astype("int32")
    ragged = tf.ragged.constant(bags, dtype=tf.int64)
    vectors = layer(
        {
            "one": tf.constant([3, 19, 0, 3]),
            "fixed": fixed,
            "ragged": ragged,
            "sparse": ragged.to_sparse(),
            "weighted": ragged,
            "plain": tf.constant([4, 0, 1, 2]),
        },
        {"weighted": tf.ragged.constant(weights, dtype=tf.float32)},
    )
    every = expanded(layer)

    def pooled(ids, own=None):
        own = np.ones(len(ids)) if own is None else np.asarray(own)
        divisor = {"sum": 1, "mean": own.sum(), "sqrtn": np.sqrt((own**2).sum())}[combiner]
        return (every[ids] * own[:, None]).sum(0) / divisor if len(ids) else np.zeros(DIM)

    close = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(vectors["one"], every[[3, 19, 0, 3]], **close)
    np.testing.assert_allclose(vectors["fixed"], [pooled(ids) for ids in fixed], **close)
    for feature in ("ragged", "sparse"):
        np.testing.assert_allclose(vectors[feature], [pooled(ids) for ids in bags], **close)
    wanted = [pooled(ids, own) for ids, own in zip(bags, weights, strict=True)]
    np.testing.assert_allclose(vectors["weighted"], wanted, **close)
    rows = layer.tables["p"].read_rows().numpy()
    np.testing.assert_array_equal(vectors["plain"], rows[[4, 0, 1, 2]])


@pytest.mark.parametrize(
    "optimizer", [SGD(0.5), Adagrad(0.1), RowWiseAdagrad(0.1), LazyAdam(0.05), FTRL(0.5)]
)
@pytest.mark.parametrize("name", STORAGES)
@pytest.mark.parametrize("training", [None, True], ids=["tensorflow", "kernels"])
def test_a_step_equals_that_of_plain_tables_under_autodiff(name, optimizer, training):
    """The tables that are there learn as tables of their own with TensorFlow's gradients."""
    layer = EmbeddingCollection([FeatureConfig("f", table(STORAGES[name], optimizer=optimizer))])
    layer.build()
    mixed_up(layer)
    bags = tf.ragged.constant([[1, 1, 4], [], [19], [7, 3, 3, 18, 0]], dtype=tf.int64)
    upstream = tf.constant(np.random.default_rng(1).normal(size=(4, DIM)), tf.float32)
    held = {n: tf.constant(layer.tables[n].read_rows().numpy()) for n in layer.tables}
    matrices = [tf.constant(np.asarray(v)) for v in layer.trainable_variables if len(v.shape)]
    storage = STORAGES[name]
    stored = stored_features(layer.features)
    with tf.GradientTape() as oracle:
        oracle.watch([held, matrices])
        parts = []
        for feature, part in zip(stored, storage.parts(layer.features[0].table), strict=True):
            parts.append(tf.gather(held[feature.table.name], part.rows_of(bags.values)))
        vectors = storage.put_together(parts)
        if matrices:
            vectors = vectors @ matrices[0]
        loss = tf.reduce_sum(upstream * tf.math.segment_sum(vectors, bags.value_rowids())[:4])
    wanted, of_matrices = oracle.gradient(loss, [held, matrices])
    wanted = {n: tf.convert_to_tensor(g).numpy() for n, g in wanted.items()}

    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(upstream * layer({"f": bags}, training=training)["f"])
    gradients = tape.gradient(loss, layer.trainable_variables)
    for matrix, gradient in zip(of_matrices, gradients[1:], strict=True):
        np.testing.assert_allclose(gradient, matrix, rtol=1e-4, atol=1e-5)
    assert set(wanted) == set(layer.tables)
    for n, gradient in wanted.items():
        other = EmbeddingCollection(
            [FeatureConfig("x", next(f.table for f in stored if f.table.name == n))]
        )
        other.build()
        other.tables[n].assign_rows(held[n], 0)
        touched = np.flatnonzero(np.abs(gradient).sum(1))
        with tf.GradientTape() as tape:
            looked_up = other({"x": tf.constant(touched)})["x"]
            loss = tf.reduce_sum(looked_up * gradient[touched])
        tape.gradient(loss, other.trainable_variables)
        np.testing.assert_allclose(
            layer.tables[n].read_rows(), other.tables[n].read_rows(), rtol=1e-4, atol=1e-5
        )
        assert np.abs(layer.tables[n].read_rows() - held[n]).max() > 1e-4


def test_weights_of_ids_get_their_gradient_through_a_product():
    layer = EmbeddingCollection([FeatureConfig("f", table(STORAGES["multiply"], combiner="mean"))])
    layer.build()
    mixed_up(layer)
    every = tf.constant(expanded(layer), tf.float32)
    ids, weights = tf.constant([[1, 4], [7, 19]]), tf.Variable([[0.5, 2.0], [1.0, 3.0]])
    with tf.GradientTape(persistent=True) as tape:
        got = tf.reduce_sum(layer({"f": ids}, {"f": weights})["f"] ** 2)
        pooled = tf.reduce_sum(tf.gather(every, ids) * weights[:, :, None], 1)
        wanted = tf.reduce_sum((pooled / tf.reduce_sum(weights, 1)[:, None]) ** 2)
    np.testing.assert_allclose(got, wanted, rtol=1e-5)
    np.testing.assert_allclose(
        tape.gradient(got, weights), tape.gradient(wanted, weights), rtol=1e-4
    )


@pytest.mark.parametrize("ids", [2**24 + 1, 134_217_743, 2**31 + 5, 2**53 + 1, 2**60 + 3])
def test_quotient_and_remainder_are_exact_at_any_size(ids):
    parts = QuotientRemainder(4).parts(TableConfig("t", 2**62, 4, optimizer=SGD(0.01)))
    got = [int(part.rows_of(tf.constant([ids], tf.int64))[0]) for part in parts]
    assert got == [ids // 4, ids % 4]


@pytest.mark.parametrize("operation", ["multiply", "add", "concatenate"])
@pytest.mark.parametrize("hotness", [1, 2])
def test_ids_above_2_to_24_are_looked_up_and_trained_exactly(operation, hotness):
    """The paper's code divides in float32, where such ids have the rows of their neighbours."""
    size, collisions = 2**40 + 3, 2**13
    storage = QuotientRemainder(collisions, operation)
    small = TableConfig("t", collisions**2, DIM, Uniform(0.5), SGD(1.0), storage=storage)
    layer = EmbeddingCollection([FeatureConfig("f", small)])
    ids = np.array([2**24 + 1, 2**25 + 3, 2**26 - 1, 2**26 - collisions - 1])
    ids = ids.reshape(-1, hotness)
    layer.build()
    mixed_up(layer)
    held = {name: layer.tables[name].read_rows().numpy() for name in layer.tables}
    pair = held["t.quotient"][ids // collisions], held["t.remainder"][ids % collisions]
    join = {"multiply": np.multiply, "add": np.add, "concatenate": lambda *p: np.concatenate(p, 2)}
    with tf.GradientTape() as tape:
        vectors = layer({"f": ids})["f"]
        loss = tf.reduce_sum(vectors)
    np.testing.assert_allclose(vectors, join[operation](*pair).sum(1), rtol=1e-5, atol=1e-6)
    tape.gradient(loss, layer.trainable_variables)
    for name, rows in (("t.quotient", ids // collisions), ("t.remainder", ids % collisions)):
        moved = np.abs(layer.tables[name].read_rows() - held[name]).max(1)
        assert set(np.flatnonzero(moved)) == set(rows.ravel()), name
    # Where a table itself has more rows than an int32 counts, the parts are still exact.
    parts = QuotientRemainder(2**20, operation).parts(
        TableConfig("t", size, DIM, optimizer=SGD(0.01))
    )
    assert [int(part.rows_of(tf.constant(size - 1, tf.int64))) for part in parts] == [2**20, 2]


@pytest.mark.parametrize("dtype", [tf.int32, tf.int64])
def test_more_collisions_than_ids_are_a_table_of_remainders(dtype):
    config = TableConfig("t", 20, DIM, storage=QuotientRemainder(2**40, "add"), optimizer=SGD(0.01))
    layer = EmbeddingCollection([FeatureConfig("f", config)])
    layer.build()
    assert layer.tables["t.quotient"].shape() == (1, DIM)
    assert layer.tables["t.remainder"].shape() == (20, DIM)
    rows = layer.tables["t.remainder"].read_rows() + layer.tables["t.quotient"].read_rows()
    ids = tf.constant([[19, 0], [3, 3]], dtype)
    np.testing.assert_allclose(
        layer({"f": ids})["f"], tf.reduce_sum(tf.gather(rows, ids), 1), rtol=1e-6
    )


@pytest.mark.parametrize("operation", ["multiply", "add", "concatenate"])
def test_first_values_of_quotients_and_remainders(operation):
    """The paper's code draws from U(sqrt(1 / rows), 1); here both signs, bound by all the rows."""
    storage = QuotientRemainder(4, operation)
    layer = EmbeddingCollection(
        [FeatureConfig("f", TableConfig("t", 10_000, 16, storage=storage, optimizer=SGD(0.01)))]
    )
    layer.build()
    quotient, remainder = (layer.tables[f"t.{n}"].read_rows() for n in ("quotient", "remainder"))
    drawn = [quotient] if operation == "multiply" else [quotient, remainder]
    for rows in drawn:
        assert -0.01 <= np.min(rows) < -0.008 and 0.008 < np.max(rows) < 0.01
    if operation == "multiply":
        np.testing.assert_array_equal(remainder, np.ones((4, 16)))
    vectors = layer({"f": tf.range(10_000)})["f"]
    bound = 0.02 if operation == "add" else 0.01
    assert np.abs(vectors).max() <= bound and abs(np.mean(vectors)) < 0.1 * bound


def test_no_two_ids_share_all_rows_and_tables_are_as_small_as_they_should_be():
    config = TableConfig("t", 1003, 16, storage=QuotientRemainder(4), optimizer=SGD(0.01))
    quotient, remainder = stored_features([FeatureConfig("f", config)])
    assert (quotient.table.vocabulary_size, remainder.table.vocabulary_size) == (251, 4)
    ids = tf.range(1003)
    rows = [part.rows_of(ids).numpy() for part in config.storage.parts(config)]
    assert len(set(zip(*rows, strict=True))) == 1003
    assert rows[0].max() == 250
    assert remainder.table.initializer == Constant(1.0)
    assert quotient.table.initializer == Uniform(1003**-0.5)


def test_ids_outside_the_vocabulary_are_errors_that_name_the_feature_and_the_table():
    for name in ("multiply", "mixed", "weighted_rows"):
        layer = EmbeddingCollection([FeatureConfig("f", table(STORAGES[name]))])
        # 20 // 3 and 20 % 3 are rows of the small tables, so only a check of the id finds it.
        with pytest.raises(tf.errors.InvalidArgumentError, match="Feature f has the id 20 .*table"):
            layer({"f": tf.constant([20])})
        with pytest.raises(tf.errors.InvalidArgumentError, match="Feature f has the id -1"):
            layer({"f": tf.constant([-1])})
        known = EmbeddingCollection(
            [FeatureConfig("f", table(STORAGES[name], out_of_vocabulary=2))]
        )
        vectors = known({"f": tf.constant([20, 2, -1])})["f"]
        np.testing.assert_array_equal(vectors[0], vectors[1])
        np.testing.assert_array_equal(vectors[2], vectors[1])


def test_hashing_takes_any_id_and_spreads_them():
    config = TableConfig("t", 10, 4, storage=MultipleHashing(1000, 2), optimizer=SGD(0.01))
    layer = EmbeddingCollection([FeatureConfig("f", config)])
    vectors = layer({"f": tf.constant([-1, 2**62, 10, -(2**63)], tf.int64)})["f"]
    assert len(np.unique(vectors, axis=0)) == 4
    rows = [part.rows_of(tf.range(100_000)).numpy() for part in config.storage.parts(config)]
    for row in rows:
        counts = np.bincount(row, minlength=1000)
        # 100 each with a standard deviation of 10.
        assert counts.min() > 50 and counts.max() < 150 and 9 < counts.std() < 11
    # Of 5e9 pairs of ids, 1 in 1e6 shares both rows.
    assert len(np.unique(rows[0] * 1000 + rows[1])) > 94_000


def test_mixed_dimensions_follow_popularity():
    rows = [100, 400, 1600, 25_600]
    assert mixed_dimensions(rows, 16, 0.0) == [16, 16, 16, 16]
    assert mixed_dimensions(rows, 16, 0.5) == [16, 8, 4, 1]
    assert mixed_dimensions(rows, 16, 1.0) == [16, 4, 1, 1]
    assert mixed_dimensions([10, 20], 10, 0.5) == [10, 8]  # 10 and 7.07, of 1, 2, 4, 8, 10
    with pytest.raises(ValueError, match=r"temperature must be in \[0, 1\], but is 1.5"):
        mixed_dimensions(rows, 16, 1.5)


def test_a_dim_as_wide_as_the_table_needs_no_matrix():
    layer = EmbeddingCollection([FeatureConfig("f", table(MixedDimension(DIM)))])
    layer.build()
    assert len(layer.trainable_variables) == 1  # the trap
    rows = layer.tables["t"].read_rows().numpy()
    np.testing.assert_array_equal(layer({"f": tf.constant([3, 4])})["f"], rows[[3, 4]])


def test_configs_come_back_from_their_dicts():
    for storage in [None, *STORAGES.values()]:
        config = table(storage)
        assert TableConfig.from_dict(config.to_dict()) == config
    old = table(None).to_dict()
    del old["storage"]  # written before there was any
    assert TableConfig.from_dict(old) == table(None)
    with pytest.raises(ValueError, match="kind of a storage must be one of .* but is 'zip'"):
        TableConfig.from_dict({**old, "storage": {"kind": "zip"}})


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: QuotientRemainder(1), "collisions must be a whole number of at least 2, but is 1"),
        (lambda: QuotientRemainder(4, "mean"), "operation must be one of .* but is 'mean'"),
        (lambda: MultipleHashing(0), "buckets must be a whole number of at least 1, but is 0"),
        (lambda: MultipleHashing(5, 0), "hashes must be a whole number of at least 1, but is 0"),
        (lambda: MultipleHashing(5, 2, "multiply"), "operation must be one of .*'multiply'"),
        (lambda: table(MixedDimension(9)), "must have a dim of at most 8, the table's, but has 9"),
        (lambda: table(MultipleHashing(5, 3, "concatenate")), "'t', 8, must be a multiple of 3"),
        (lambda: table("quotient"), "storage of table 't' must be None, Quot.* but is 'quotient'"),
    ],
)
def test_what_does_not_fit_is_said_in_a_sentence(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


@pytest.mark.parametrize("name", STORAGES)
def test_checkpoints_and_keras_files_bring_the_same_vectors_back(name, tmp_path):
    config = table(STORAGES[name], optimizer=Adagrad(0.1))
    ids = {"f": tf.constant([[3, 19], [0, 7]])}
    layer = EmbeddingCollection([FeatureConfig("f", config)])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(ids)["f"] ** 2)
    tape.gradient(loss, layer.trainable_variables)
    wanted = layer(ids)["f"]
    path = tf.train.Checkpoint(layer=layer).write(str(tmp_path / "checkpoint"))
    other = EmbeddingCollection([FeatureConfig("f", config)], seed=9)
    other.build()
    assert np.abs(other(ids)["f"] - wanted).max() > 1e-3
    tf.train.Checkpoint(layer=other).read(path).assert_consumed()
    np.testing.assert_array_equal(other(ids)["f"], wanted)
    store: dict = {}
    layer.save_own_variables(store)
    third = EmbeddingCollection([FeatureConfig("f", config)], seed=9)
    third.build()
    third.load_own_variables(store)
    np.testing.assert_array_equal(third(ids)["f"], wanted)
