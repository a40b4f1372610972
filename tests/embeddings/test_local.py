"""Lookup and update of the local placement, in every form of ids, against NumPy."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from pulled_back import pull

from tf_dlrm.embeddings import SGD, Adagrad, FeatureConfig, LocalPlacement, TableConfig, make_bags

BATCH = 7


def pooled(rows, combiner, weights):
    """Returns the vector of one bag, rows [n, dim] with weights [n]."""
    if not len(rows):
        return np.zeros(rows.shape[1:])
    total = (rows * weights[:, None]).sum(0)
    if combiner == "mean":
        return total / weights.sum()
    if combiner == "sqrtn":
        return total / np.sqrt((weights**2).sum())
    return total


def forms(rng, vocabulary):
    """Returns (name, ids, list of bags, weights in that form, list of weights)."""
    one = rng.integers(0, vocabulary, BATCH)
    many = rng.integers(0, vocabulary, (BATCH, 3))
    many_weights = rng.uniform(0.5, 2, (BATCH, 3)).astype("f")
    bags = [rng.integers(0, vocabulary, n) for n in (0, 3, 1, 4, 0, 2, 0)]
    bag_weights = [rng.uniform(0.5, 2, len(b)).astype("f") for b in bags]
    indices = [(r, 2 * c) for r, b in enumerate(bags) for c in range(len(b))]
    flat = np.concatenate(bags)
    flat_weights = np.concatenate(bag_weights)
    ragged_weights = tf.RaggedTensor.from_row_lengths(flat_weights, [len(b) for b in bags])
    return [
        ("one", tf.constant(one, tf.int32), one[:, None], None, None),
        ("column", tf.constant(one[:, None], tf.int64), one[:, None], None, None),
        ("many", tf.constant(many, tf.int32), many, None, None),
        ("weighted", tf.constant(many), many, tf.constant(many_weights), many_weights),
        (
            "ragged",
            tf.RaggedTensor.from_row_lengths(flat, [len(b) for b in bags]),
            bags,
            None,
            None,
        ),
        (
            "ragged_weighted",
            tf.RaggedTensor.from_row_lengths(flat.astype("i4"), [len(b) for b in bags]),
            bags,
            ragged_weights,
            bag_weights,
        ),
        ("sparse", tf.SparseTensor(indices, flat, (BATCH, 9)), bags, None, None),
        (
            "sparse_weighted",
            tf.SparseTensor(indices, flat, (BATCH, 9)),
            bags,
            tf.SparseTensor(indices, flat_weights, (BATCH, 9)),
            bag_weights,
        ),
        ("none", tf.zeros((BATCH, 0), tf.int32), [[]] * BATCH, None, None),
    ]


@pytest.mark.parametrize("graph", [False, True])
def test_all_forms_and_combiners_in_one_collection(graph):
    rng = np.random.default_rng(0)
    vocabulary = 6
    data, features = {}, []
    # Tracing takes longer than running; two widths make two stacks, of which one is enough there.
    dims = (3,) if graph else (2, 3)
    for combiner, dim in itertools.product(("sum", "mean", "sqrtn"), dims):
        table = TableConfig(
            f"{combiner}{dim}", vocabulary, dim, optimizer=SGD(0.1), combiner=combiner
        )
        for form in forms(rng, vocabulary):
            name = f"{combiner}{dim}_{form[0]}"
            features.append(FeatureConfig(name, table))
            data[name] = form[1:]
    placement = LocalPlacement(features, seed=3)
    assert [stack.rows for stack in placement.stacks] == [18] * len(dims)
    before = {name: placement.tables[name].read_rows().numpy() for name in placement.tables}
    gradients = {f.name: rng.normal(size=(BATCH, f.table.dim)).astype("f") for f in features}

    def run():
        bags = {name: make_bags(name, entry[0], entry[2]) for name, entry in data.items()}
        lookup = placement.lookup(bags)
        return lookup.vectors, pull(placement, lookup, gradients)

    vectors, weight_gradients = (tf.function(run, autograph=False) if graph else run)()
    after = {name: table.astype("f8") for name, table in before.items()}
    for feature in features:
        _, bags, _, weights = data[feature.name]
        table, combiner = before[feature.table.name].astype("f8"), feature.table.combiner
        if weights is None:
            weights = [np.ones(len(bag)) for bag in bags]
        rows = [table[np.asarray(bag, int)] for bag in bags]
        expected = np.stack([pooled(r, combiner, w) for r, w in zip(rows, weights, strict=True)])
        np.testing.assert_allclose(vectors[feature.name], expected, atol=1e-6, err_msg=feature.name)
        for bag, w, g in zip(bags, weights, gradients[feature.name], strict=True):
            for position, row in enumerate(bag):
                # The gradient of a row is its part of the bag's vector times the bag's gradient.
                share = pooled(np.eye(len(bag)), combiner, np.asarray(w, "f8"))[position]
                after[feature.table.name][row] -= 0.1 * share * g
    for name in placement.tables:
        np.testing.assert_allclose(placement.tables[name].read_rows(), after[name], atol=2e-5)
    assert int(placement.tables.updates) == 1
    # Gradients of the weights, by central differences in float64.
    assert set(weight_gradients) == {f.name for f in features if f.name.endswith("weighted")}
    for feature in features:
        if feature.name not in weight_gradients:
            continue
        _, bags, _, weights = data[feature.name]
        table, combiner = before[feature.table.name].astype("f8"), feature.table.combiner
        numeric = []
        for bag, w, g in zip(bags, weights, gradients[feature.name], strict=True):
            w = np.asarray(w, "f8")
            for position in range(len(bag)):
                ends = []
                for sign in (1, -1):
                    moved = w.copy()
                    moved[position] += sign * 1e-5
                    ends.append(pooled(table[bag], combiner, moved) @ g)
                numeric.append((ends[0] - ends[1]) / 2e-5)
        np.testing.assert_allclose(
            weight_gradients[feature.name], numeric, atol=1e-5, err_msg=feature.name
        )


@pytest.mark.parametrize("batch", [0, 1])
def test_batches_of_zero_and_one(batch):
    table = TableConfig("t", 5, 2, optimizer=Adagrad(0.1))
    features = [FeatureConfig(name, table) for name in ("one", "many", "ragged")]
    placement = LocalPlacement(features)
    rows = placement.tables["t"].read_rows().numpy()

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.int32),
            tf.TensorSpec([None, 2], tf.int32),
            tf.RaggedTensorSpec([None, None], tf.int32),
        ],
        autograph=False,
    )
    def run(one, many, ragged):
        given = {"one": one, "many": many, "ragged": ragged}
        lookup = placement.lookup({k: make_bags(k, v) for k, v in given.items()})
        pull(placement, lookup, {k: tf.ones_like(v) for k, v in lookup.vectors.items()})
        return lookup.vectors

    ragged = tf.RaggedTensor.from_row_lengths(
        tf.constant([3, 0][: 2 * batch], tf.int32), [2] * batch
    )
    vectors = run(tf.fill([batch], 1), tf.fill([batch, 2], 4), ragged)
    expected = {"one": rows[[1]], "many": 2 * rows[[4]], "ragged": rows[[3]] + rows[[0]]}
    for name, value in expected.items():
        np.testing.assert_allclose(vectors[name], value[:batch], rtol=1e-6)


def test_zero_weights_give_zeros():
    table = TableConfig("t", 5, 2, combiner="mean", optimizer=SGD(0.01))
    placement = LocalPlacement([FeatureConfig("f", table)])
    bags = {"f": make_bags("f", [[1, 2]], tf.zeros((1, 2)))}
    np.testing.assert_array_equal(placement.lookup(bags).vectors["f"], [[0.0, 0.0]])


def test_first_values_do_not_depend_on_the_order_of_features():
    tables = [TableConfig(f"t{k}", 50 + k, 4, optimizer=SGD(0.01)) for k in range(3)]
    features = [FeatureConfig(t.name, t) for t in tables]
    first, second = LocalPlacement(features, 5), LocalPlacement(features[::-1], 5)
    for t in tables:
        np.testing.assert_array_equal(
            first.tables[t.name].read_rows(), t.initial_rows(5, 0, 999)[: t.vocabulary_size]
        )
        np.testing.assert_array_equal(
            first.tables[t.name].read_rows(), second.tables[t.name].read_rows()
        )


@pytest.mark.parametrize(
    ("ids", "weights", "words"),
    [
        (tf.constant([1.0]), None, "must be int32 or int64, but are float32"),
        (tf.constant([1], tf.uint8), None, "must be int32 or int64, but are uint8"),
        (tf.constant(1), None, r"shape \[batch\] or \[batch, hotness\]"),
        (tf.zeros((1, 1, 1), tf.int32), None, r"shape \[batch\] or \[batch, hotness\]"),
        (tf.ragged.constant([[[1]]]), None, r"must have the shape \[batch, None\]"),
        (["nonsense"], None, "must be int32 or int64, but are string"),
        (tf.constant([[1]]), tf.constant([[1]]), "must be floats"),
        (tf.constant([[1]]), tf.constant([1.0]), "shape of its ids"),
        (tf.ragged.constant([[1]]), tf.constant([[1.0]]), "structure of its ids"),
    ],
)
def test_bad_ids_are_sentences(ids, weights, words):
    with pytest.raises(ValueError, match=f"feature 'f'.*{words}"):
        make_bags("f", ids, weights)


def test_weights_of_another_ragged_structure():
    ids = tf.ragged.constant([[1, 2], [3]])
    with pytest.raises(tf.errors.InvalidArgumentError, match="feature 'f' must have one number"):
        make_bags("f", ids, tf.ragged.constant([[1.0], [2.0, 3.0]]))


RAGGED = tf.ragged.constant([[1], [], [2, 3, 12345]])
SPARSE = tf.SparseTensor([[0, 0], [2, 1], [2, 5]], [1, 2, -7], (4, 9))
OUTSIDE = [
    (tf.constant([0, 9, 10]), "10", 2, 0),
    (tf.constant([0, -1, 10]), "-1", 1, 0),
    (tf.constant([1, 2**32 + 1]), str(2**32 + 1), 1, 0),  # would be 1 as an int32
    (tf.constant([[1, 2], [3, 10]]), "10", 1, 1),
    (RAGGED, "12345", 2, 2),
    (SPARSE, "-7", 2, 1),
]


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize(("ids", "value", "row", "place"), OUTSIDE)
def test_ids_outside_the_table(ids, value, row, place, graph):
    tables = [TableConfig(n, 10, 2, optimizer=SGD(0.01)) for n in ("before", "mine", "after")]
    features = [FeatureConfig(f"f_{t.name}", t) for t in tables]
    placement = LocalPlacement(features)
    fine = tf.zeros([ids.shape[0]], tf.int64)

    def run():
        given = {f.name: fine for f in features} | {"f_mine": ids}
        return placement.lookup({k: make_bags(k, v) for k, v in given.items()}).vectors["f_mine"]

    message = (
        f"Feature f_mine has the id {value} at row {row} of the batch, place {place} of its bag, "
        r"but ids of table mine must be in \[0, 10\)"
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        (tf.function(run, autograph=False) if graph else run)()


@pytest.mark.parametrize(("ids", "value", "row", "place"), OUTSIDE)
def test_out_of_vocabulary_row(ids, value, row, place):
    table = TableConfig("t", 10, 2, out_of_vocabulary=4, combiner="sum", optimizer=SGD(0.01))
    strict = TableConfig("strict", 5, 2, optimizer=SGD(0.01))
    placement = LocalPlacement([FeatureConfig("s", strict), FeatureConfig("f", table)])

    def look(f):
        given = {"f": make_bags("f", f), "s": make_bags("s", tf.zeros([f.shape[0]], tf.int32))}
        return placement.lookup(given).vectors["f"].numpy()

    def replace(v):
        return tf.where((v < 0) | (v >= 10), tf.cast(4, v.dtype), v)

    if isinstance(ids, tf.SparseTensor):
        clean = tf.SparseTensor(ids.indices, replace(ids.values), ids.dense_shape)
    else:
        clean = tf.ragged.map_flat_values(replace, ids)
    np.testing.assert_array_equal(look(ids), look(clean))
    message = "Feature s has the id 5 at row 0 of the batch, place 0 .* table strict"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        placement.lookup({"f": make_bags("f", [0]), "s": make_bags("s", [5])})
