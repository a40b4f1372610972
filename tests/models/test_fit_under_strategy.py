"""Plain compile and fit under MirroredStrategy, in either Keras, equal a loop on one device."""

import contextlib

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.embeddings import Adagrad, FeatureConfig, LazyAdam, TableConfig
from tf_dlrm.embeddings.plan import COLUMN_WISE, DATA_PARALLEL, ROW_WISE, Plan, TablePlan
from tf_dlrm.keras_api import keras
from tf_dlrm.layers import EmbeddingCollection, ResumableDropout
from tf_dlrm.models import DLRM, DLRMConfig, MatrixFactorization, MatrixFactorizationConfig

_USERS = TableConfig("users", 300, 8, optimizer=Adagrad(0.05))
_ITEMS = TableConfig("items", 50, 8, optimizer=LazyAdam(0.05), combiner="mean")
_FEATURES = (
    FeatureConfig("user", _USERS),
    FeatureConfig("item", _ITEMS),
    FeatureConfig("seen", _ITEMS),
)
_PLAN = Plan(2, {"users": TablePlan(ROW_WISE, (0, 1)), "items": TablePlan(COLUMN_WISE, (1, 0))})


def _mirrored():
    # The keys of TensorFlow's own collectives begin anew with every strategy of a process.
    return tf.distribute.MirroredStrategy(
        ["/cpu:0", "/cpu:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )


def _data():
    rng = np.random.default_rng(0)
    inputs = {
        "dense": rng.normal(size=(200, 2)).astype("float32"),
        "user": rng.integers(0, 300, 200),
        "item": rng.integers(0, 50, 200),
        "seen": rng.integers(0, 50, (200, 3)),
    }
    return inputs, (inputs["item"] % 2).astype("float32")[:, None]


def _batches(inputs, labels):
    # 200 rows in batches of 64: the last has 8.
    return tf.data.Dataset.from_tensor_slices((inputs, labels)).batch(64)


def _losses(model, inputs, labels):
    return model.fit(_batches(inputs, labels), epochs=3, verbose=0).history["loss"]


def _losses_of_a_loop(model, inputs, labels):
    """What `fit` should report, with neither Keras's loop nor its optimizer."""
    losses = []
    for _ in range(3):
        total = 0.0
        for start in range(0, len(labels), 64):
            rows = slice(start, start + 64)
            batch = {name: tf.constant(values[rows]) for name, values in inputs.items()}
            with tf.GradientTape() as tape:
                logits = model(batch, training=True)
                each = tf.nn.sigmoid_cross_entropy_with_logits(labels[rows], logits)
                loss = tf.reduce_mean(each)
            weights = model.trainable_variables
            for weight, gradient in zip(weights, tape.gradient(loss, weights), strict=True):
                weight.assign_sub(0.3 * gradient)
            total += float(tf.reduce_sum(each))
        losses.append(total / len(labels))
    return losses


def _scope(strategy):
    return strategy.scope() if strategy else contextlib.nullcontext()


# Both replicas are traced, by Keras's loop around the step: many seconds for each function.
@pytest.mark.slow
def test_dlrm():
    inputs, labels = _data()
    losses, tables = [], []
    for strategy in (None, _mirrored()):
        with _scope(strategy):
            model = DLRM(DLRMConfig(2, _FEATURES, (16, 8), (16, 1)), _PLAN if strategy else None)
            model.compile(
                optimizer=keras.optimizers.SGD(0.3),
                loss=keras.losses.BinaryCrossentropy(from_logits=True),
            )
        run = _losses if strategy else _losses_of_a_loop
        losses.append(run(model, inputs, labels))
        if strategy is None:
            logits = model(inputs, training=False).numpy()
        tables.append(model.embeddings.tables.to_arrays())
    np.testing.assert_allclose(losses[1], losses[0], rtol=2e-5)
    assert losses[0][-1] < losses[0][0] - 0.05
    # Prediction and evaluation under the strategy, against the one device's logits.
    batches = _batches(inputs, labels)
    np.testing.assert_allclose(model.predict(batches, verbose=0), logits, rtol=2e-5, atol=1e-6)
    entropies = np.logaddexp(0, logits) - labels * logits
    np.testing.assert_allclose(
        model.evaluate(batches, verbose=0), entropies.mean(), rtol=2e-5, atol=1e-6
    )
    for key, array in tables[0].items():
        np.testing.assert_allclose(tables[1][key], array, rtol=1e-4, atol=1e-5, err_msg=key)


@pytest.mark.slow
def test_a_functional_model_of_ones_own():
    inputs, labels = _data()
    plan = Plan(2, {"users": TablePlan(DATA_PARALLEL), "items": TablePlan(ROW_WISE, (1, 0))})
    losses = []
    for strategy in (None, _mirrored()):
        with _scope(strategy):
            symbols = {
                "user": keras.Input((), dtype="int64", name="user"),
                "item": keras.Input((), dtype="int64", name="item"),
                "seen": keras.Input((3,), dtype="int64", name="seen"),
            }
            layer = EmbeddingCollection(_FEATURES, plan=plan if strategy else None)
            vectors = layer(symbols)
            joined = keras.layers.Concatenate()([vectors[f.name] for f in _FEATURES])
            dense = keras.layers.Dense(1, kernel_initializer=keras.initializers.Constant(0.1))
            model = keras.Model(symbols, dense(joined))
            model.compile(
                optimizer=keras.optimizers.SGD(0.3),
                loss=keras.losses.BinaryCrossentropy(from_logits=True),
            )
        of_ids = {name: inputs[name] for name in symbols}
        run = _losses if strategy else _losses_of_a_loop
        losses.append(run(model, of_ids, labels))
    np.testing.assert_allclose(losses[1], losses[0], rtol=2e-5)
    assert losses[0][-1] < losses[0][0] - 0.05


@pytest.mark.slow
def test_ragged_ids():
    """Keras 3 takes the mean of the replicas' first batches, which ragged ones do not have."""
    bags = tf.ragged.constant([[1, 2], [3], [4, 5, 6], [], [7], [8, 9], [1], [2, 3]], tf.int64)
    inputs = {"user": tf.range(8), "item": bags}
    labels = tf.constant([[1.0], [0.0]] * 4)
    logits, tables = [], []
    for strategy in (None, _mirrored()):
        with _scope(strategy):
            config = MatrixFactorizationConfig(0, _FEATURES[:2])
            model = MatrixFactorization(config, _PLAN if strategy else None)
            loss = keras.losses.BinaryCrossentropy(from_logits=True)
            model.compile(optimizer=keras.optimizers.SGD(0.3), loss=loss)
        batches = tf.data.Dataset.from_tensor_slices((inputs, labels)).batch(4)
        model.fit(batches, epochs=2, verbose=0)
        tables.append(model.embeddings.tables.to_arrays())
        # The parts of 3 rows are of 2 and 1.
        uneven = tf.data.Dataset.from_tensor_slices((inputs, labels)).batch(3)
        logits.append(model.predict(uneven, verbose=0))
    np.testing.assert_allclose(logits[1], logits[0], rtol=2e-5, atol=1e-6)
    assert np.abs(logits[0]).max() > 1e-3
    for key, array in tables[0].items():
        np.testing.assert_allclose(tables[1][key], array, rtol=1e-4, atol=1e-5, err_msg=key)


def test_dropout_draws_another_mask_on_each_replica_and_counts_once():
    strategy = _mirrored()
    with strategy.scope():
        layer = ResumableDropout(0.5, seed=1)
        layer.build()
    run = tf.function(lambda: strategy.run(lambda: layer(tf.ones((40, 50)), training=True)))
    masks = [strategy.experimental_local_results(run()) for _ in range(2)]
    arrays = [mask.numpy() for pair in masks for mask in pair]
    for number, mask in enumerate(arrays):
        assert 0.4 < (mask == 0).mean() < 0.6
        for other in arrays[:number]:
            assert 0.4 < (mask != other).mean() < 0.6
    assert int(tf.convert_to_tensor(layer.calls)) == 2
    # The first replica's are those of one device.
    single = ResumableDropout(0.5, seed=1)
    single.build()
    np.testing.assert_array_equal(single(tf.ones((40, 50)), training=True), arrays[0])
