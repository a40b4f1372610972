"""EmbeddingCollection: training inside fit, gradients, save and load, sentences."""

import logging
import tempfile

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.embeddings import (
    FTRL,
    SGD,
    Adagrad,
    FeatureConfig,
    LazyAdam,
    LearningRateSchedule,
    RowWiseAdagrad,
    TableConfig,
    WeightedRows,
)
from tf_dlrm.keras_api import keras, uses_legacy_keras
from tf_dlrm.layers import EmbeddingCollection

OPTIMIZERS = [
    SGD(0.5),
    Adagrad(0.1),
    RowWiseAdagrad(LearningRateSchedule(0.1, 3)),
    LazyAdam(0.05),
    FTRL(0.5),
]


def features(optimizer, combiner="sum"):
    shared = TableConfig("shared", 20, 4, optimizer=optimizer, combiner=combiner)
    small = TableConfig("small", 9, 2, optimizer=optimizer, combiner=combiner)
    return [FeatureConfig("a", shared), FeatureConfig("b", shared), FeatureConfig("c", small)]


def data(rows=96):
    rng = np.random.default_rng(0)
    ids = {
        "a": rng.integers(0, 20, rows),
        "b": rng.integers(0, 20, (rows, 3)).astype("int32"),
        "c": rng.integers(0, 9, (rows, 1)),
    }
    labels = ((ids["a"] + ids["c"][:, 0]) % 2).astype("f")[:, None]
    return ids, labels


def functional(optimizer, seed=0):
    inputs = {
        "a": keras.Input((), dtype="int64", name="a"),
        "b": keras.Input((3,), dtype="int32", name="b"),
        "c": keras.Input((1,), dtype="int64", name="c"),
    }
    vectors = EmbeddingCollection(features(optimizer), seed, name="tables")(inputs)
    assert {k: tuple(v.shape) for k, v in vectors.items()} == {
        "a": (None, 4),
        "b": (None, 4),
        "c": (None, 2),
    }
    joined = keras.layers.Concatenate()([vectors[k] for k in "abc"])
    logit = keras.layers.Dense(1, kernel_initializer=keras.initializers.Constant(0.5))(joined)
    model = keras.Model(inputs, logit)
    model.compile(keras.optimizers.SGD(0.05), keras.losses.BinaryCrossentropy(from_logits=True))
    return model


# The layer does not know what the optimizers do: two, of which one counts updates and one has a
# schedule, find what is wrong with the layer.
@pytest.mark.parametrize(
    "optimizer",
    [
        o
        if isinstance(o, (RowWiseAdagrad, LazyAdam))
        else pytest.param(o, marks=pytest.mark.exhaustive)
        for o in OPTIMIZERS
    ],
    ids=lambda o: type(o).__name__,
)
def test_fit_lowers_the_loss_and_equals_a_loop_of_ones_own(optimizer):
    ids, labels = data()
    fitted, looped = functional(optimizer), functional(optimizer)
    dataset = tf.data.Dataset.from_tensor_slices((ids, labels)).batch(32)
    losses = fitted.fit(dataset, epochs=12, verbose=0).history["loss"]
    assert losses[-1] < losses[0] - 0.005
    dense = keras.optimizers.SGD(0.05)
    loss_of = keras.losses.BinaryCrossentropy(from_logits=True)

    @tf.function(autograph=False)
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = loss_of(y, looped(x, training=True))
        weights = looped.trainable_variables
        dense.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))

    dense.build(looped.trainable_variables)
    for _ in range(12):
        for x, y in dataset:
            step(x, y)
    ours, theirs = (m.get_layer("tables").tables for m in (fitted, looped))
    assert int(ours.updates) == int(theirs.updates) == 36
    for key, value in ours.to_arrays().items():
        np.testing.assert_allclose(value, theirs.to_arrays()[key], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(fitted.get_weights()[-1], looped.get_weights()[-1], rtol=1e-4)
    assert float(fitted.get_layer("tables").trap.numpy()) == 0.0


def test_autograph_rewrites_the_layers_of_users_only(tmp_path, monkeypatch):
    class Twice(keras.layers.Layer):
        def call(self, vectors):
            return 2 * vectors

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where it writes what it rewrites
    ids = keras.Input((), dtype="int64", name="a")
    layer = EmbeddingCollection(features(SGD(0.1))[:1])
    keras.Model({"a": ids}, Twice()(layer({"a": ids})["a"]))
    written = [path.read_text() for path in tmp_path.glob("__autograph_generated_file*")]
    assert bool(written) == uses_legacy_keras()
    assert all("vectors" in text and "_stored_bags" not in text for text in written)


def test_prediction_and_evaluation_change_nothing():
    model = functional(SGD(0.5))
    ids, labels = data()
    before = model.get_layer("tables").tables.to_arrays()
    model.predict(ids, verbose=0)
    model.evaluate(ids, labels, verbose=0)
    for key, value in model.get_layer("tables").tables.to_arrays().items():
        np.testing.assert_array_equal(value, before[key])


def test_not_trainable_freezes_the_tables():
    model = functional(SGD(0.5))
    model.get_layer("tables").trainable = False
    model.compile("sgd", "mse")
    ids, labels = data()
    before = model.get_layer("tables").tables.to_arrays()
    model.fit(ids, labels, verbose=0)
    for key, value in model.get_layer("tables").tables.to_arrays().items():
        np.testing.assert_array_equal(value, before[key])


def by_fit(model, ids, labels):
    model.fit(ids, labels, batch_size=len(labels), shuffle=False, verbose=0)


def by_a_tape(model, ids, labels):
    """What `fit` does with one batch, without its tracing."""
    with tf.GradientTape() as tape:
        loss = keras.losses.BinaryCrossentropy(from_logits=True)(labels, model(ids, training=True))
    weights = model.trainable_variables
    model.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: type(o).__name__)
def test_save_and_load_go_on_equally(optimizer, tmp_path):
    ids, labels = data()
    model = functional(optimizer)
    train = by_fit if isinstance(optimizer, LazyAdam) else by_a_tape
    train(model, ids, labels)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.get_layer("tables").features == tuple(features(optimizer))
    model.save_weights(tmp_path / "m.weights.h5")
    weights_only = functional(optimizer, seed=9)
    weights_only.load_weights(tmp_path / "m.weights.h5")
    prefix = tf.train.Checkpoint(model=model).save(str(tmp_path / "c"))
    restored = functional(optimizer, seed=9)
    before = restored.get_layer("tables").tables.to_arrays()
    tf.train.Checkpoint(model=restored).restore(prefix).assert_existing_objects_matched()
    expected, saved = model(ids), model.get_layer("tables").tables.to_arrays()
    assert any((before[key] != value).any() for key, value in saved.items())
    for copy in (loaded, weights_only, restored):
        np.testing.assert_array_equal(copy(ids), expected)
        arrays = copy.get_layer("tables").tables.to_arrays()
        assert arrays.keys() == saved.keys()
        for key, value in saved.items():
            np.testing.assert_array_equal(arrays[key], value)
    train(model, ids, labels)
    train(loaded, ids, labels)
    np.testing.assert_allclose(loaded(ids), model(ids), rtol=1e-5, atol=1e-6)
    assert np.abs(model(ids) - expected).max() > 1e-3


def test_gradient_of_weights_and_ragged_and_sparse_ids():
    layer = EmbeddingCollection(features(SGD(0.1), "mean"))
    ids = {
        "a": tf.ragged.constant([[1, 2], [3]]),
        "b": tf.SparseTensor([[0, 0], [1, 4]], tf.constant([0, 19]), (2, 5)),
        "c": tf.constant([[1], [2]]),
    }
    flat = tf.constant([1.0, 3.0, 2.0])
    layer.build()
    rows = layer.tables["shared"].read_rows().numpy()
    with tf.GradientTape() as tape:
        tape.watch(flat)
        weights = {"a": tf.RaggedTensor.from_row_lengths(flat, [2, 1])}
        vectors = layer(ids, weights=weights)
        loss = tf.reduce_sum(vectors["a"])
    np.testing.assert_allclose(vectors["a"][0], (rows[1] + 3 * rows[2]) / 4, rtol=1e-5)
    np.testing.assert_allclose(vectors["b"], rows[[0, 19]], rtol=1e-6)
    # d mean / d w_i = (r_i - mean) / sum(w).
    mean = (rows[1] + 3 * rows[2]) / 4
    expected = [(rows[1] - mean).sum() / 4, (rows[2] - mean).sum() / 4, 0.0]
    gradient, *_ = tape.gradient(loss, [flat, *layer.trainable_variables])
    np.testing.assert_allclose(gradient, expected, atol=1e-6)
    moved = layer.tables["shared"].read_rows().numpy() - rows
    np.testing.assert_allclose(
        moved[[1, 2, 3]], -0.1 * np.array([[0.25], [0.75], [1.0]]) * np.ones(4), atol=1e-6
    )
    assert np.abs(moved[[0, 19]]).max() == 0.0


def test_bfloat16_outputs_keep_float32_tables():
    layer = EmbeddingCollection(features(SGD(0.1)), dtype="mixed_bfloat16")
    ids, _ = data(4)
    vectors = layer(ids)
    assert {v.dtype for v in vectors.values()} == {tf.bfloat16}
    assert layer.tables["small"].read_rows().dtype == tf.float32
    with pytest.raises(ValueError, match="cannot run in float16"):
        EmbeddingCollection(features(SGD(0.1)), dtype="mixed_float16")


def test_config_round_trip():
    layer = EmbeddingCollection(features(FTRL(0.1)), seed=4, name="n")
    copy = EmbeddingCollection.from_config(layer.get_config())
    assert copy.features == layer.features and copy.get_config() == layer.get_config()


def test_the_log_names_the_optimizer_of_each_table(caplog):
    tables = [
        TableConfig("u", 5, 2, optimizer=SGD(0.25)),
        TableConfig("v", 5, 2, optimizer=Adagrad(0.5)),
        TableConfig("w", 5, 3, optimizer=SGD(0.25)),
    ]
    layer = EmbeddingCollection([FeatureConfig(t.name, t) for t in tables], name="mine")
    with caplog.at_level(logging.INFO, logger="absl"):
        layer.build()
        layer.build()
    (record,) = [r for r in caplog.records if "mine" in r.getMessage()]
    assert record.getMessage() == (
        "Layer 'mine' trains u, w by SGD(learning_rate=0.25); v by Adagrad(learning_rate=0.5, "
        "initial_accumulator=0.0, epsilon=1e-10)."
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda i: i.pop("b"), r"ids has no entries \['b'\]"),
        (lambda i: i.update(z=i["a"]), r"ids has entries \['z'\]"),
        (lambda i: i.update(a=i["a"].astype("f")), "feature 'a' must be int32 or int64"),
        (lambda i: i.update(a=i["a"][:2]), "one batch size"),
        (lambda i: i.update(a=i["a"][:, None, None]), r"feature 'a' must have the shape"),
    ],
)
def test_bad_calls_are_sentences(change, words):
    ids, _ = data(4)
    change(ids)
    with pytest.raises(ValueError, match=words):
        EmbeddingCollection(features(SGD(0.1)))(ids)


def test_other_bad_calls():
    layer = EmbeddingCollection(features(SGD(0.1)))
    with pytest.raises(ValueError, match="has no tables yet"):
        _ = layer.tables
    with pytest.raises(ValueError, match=r"weights has entries \['z'\]"):
        layer(data(4)[0], weights={"z": tf.ones((4,))})
    with pytest.raises(ValueError, match="Two features are named"):
        EmbeddingCollection(features(SGD(0.1)) * 2)


def test_out_of_range_in_fit_names_feature_and_place():
    model = functional(SGD(0.5))
    ids, labels = data()
    ids["b"][5, 2] = 20
    dataset = tf.data.Dataset.from_tensor_slices((ids, labels)).batch(32)
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        model.fit(dataset, verbose=0)
    assert "Feature b has the id 20 at row 5 of the batch, place 2" in str(error.value)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("storage", [None, WeightedRows()])
def test_features_of_unequal_batches_are_refused_eagerly_and_traced(storage, training):
    table = TableConfig("t", 7, 2, optimizer=SGD(1.0), storage=storage)
    layer = EmbeddingCollection([FeatureConfig("a", table), FeatureConfig("b", table)])
    layer.build()
    ragged = tf.ragged.constant([[1, 2], [], [3]], dtype=tf.int32)
    longer = tf.ragged.constant([[1, 2], [], [3], [4]], dtype=tf.int32)
    with pytest.raises(ValueError, match="one batch size, but have {'a': 3, 'b': 4}"):
        layer({"a": ragged, "b": longer}, training=training)
    specs = {
        "a": tf.RaggedTensorSpec([None, None], tf.int32, 1),
        "b": tf.SparseTensorSpec([None, None], tf.int32),
    }
    traced = tf.function(lambda ids: layer(ids, training=training), input_signature=[specs])
    with pytest.raises(tf.errors.InvalidArgumentError, match="one batch size, but a, b have"):
        traced({"a": ragged, "b": longer.to_sparse()})
    found = traced({"a": ragged, "b": ragged.to_sparse()})
    np.testing.assert_array_equal(found["a"], found["b"])
    assert np.abs(found["b"]).sum(1).round(5).tolist().index(0.0) == 1
