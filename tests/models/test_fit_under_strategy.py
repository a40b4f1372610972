"""Plain compile and fit under MirroredStrategy, in either Keras, equal those on one device."""

import contextlib

import numpy as np
import tensorflow as tf

from tf_dlrm.embeddings import Adagrad, FeatureConfig, LazyAdam, TableConfig
from tf_dlrm.embeddings.plan import COLUMN_WISE, DATA_PARALLEL, ROW_WISE, Plan, TablePlan
from tf_dlrm.keras_api import keras
from tf_dlrm.layers import EmbeddingCollection, ResumableDropout
from tf_dlrm.models import DLRM, DLRMConfig

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
        "dense": rng.normal(size=(330, 2)).astype("float32"),
        "user": rng.integers(0, 300, 330),
        "item": rng.integers(0, 50, 330),
        "seen": rng.integers(0, 50, (330, 3)),
    }
    return inputs, (inputs["item"] % 2).astype("float32")[:, None]


def _fit(model, inputs, labels):
    # 330 rows in batches of 64: the last has 10.
    batches = tf.data.Dataset.from_tensor_slices((inputs, labels)).batch(64)
    losses = model.fit(batches, epochs=3, verbose=0).history["loss"]
    return losses, model.evaluate(batches, verbose=0), model.predict(batches, verbose=0)


def _scope(strategy):
    return strategy.scope() if strategy else contextlib.nullcontext()


def _assert_equal(one, two):
    for first, second in zip(one, two, strict=True):
        np.testing.assert_allclose(second, first, rtol=2e-5, atol=1e-6)
    assert one[0][-1] < one[0][0] - 0.1


def test_dlrm():
    inputs, labels = _data()
    results, tables = [], []
    for strategy in (None, _mirrored()):
        with _scope(strategy):
            model = DLRM(DLRMConfig(2, _FEATURES, (16, 8), (16, 1)), _PLAN if strategy else None)
            model.compile(
                optimizer=keras.optimizers.SGD(0.3),
                loss=keras.losses.BinaryCrossentropy(from_logits=True),
            )
        results.append(_fit(model, inputs, labels))
        tables.append(model.embeddings.tables.to_arrays())
    _assert_equal(*results)
    for key, array in tables[0].items():
        np.testing.assert_allclose(tables[1][key], array, rtol=1e-4, atol=1e-5, err_msg=key)


def test_a_functional_model_of_ones_own():
    inputs, labels = _data()
    plan = Plan(2, {"users": TablePlan(DATA_PARALLEL), "items": TablePlan(ROW_WISE, (1, 0))})
    results = []
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
        results.append(_fit(model, of_ids, labels))
    _assert_equal(*results)


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
