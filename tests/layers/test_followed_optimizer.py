"""What the Keras optimizer of a model does to tables: its learning rate, and what is refused."""

import logging
import types

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.embeddings import (
    FTRL,
    SGD,
    Adagrad,
    Constant,
    FeatureConfig,
    LearningRateSchedule,
    TableConfig,
)
from tf_dlrm.keras_api import keras, uses_legacy_keras
from tf_dlrm.layers import EmbeddingCollection, loss_scales
from tf_dlrm.models import Ensemble, MatrixFactorization, MatrixFactorizationConfig

OWN = SGD(0.5)
IDS = {"f": np.array([1], "int64")}


def collection(optimizer=OWN, **options):
    table = TableConfig("t", 4, 2, Constant(1.0), optimizer)
    return EmbeddingCollection([FeatureConfig("f", table)], name="tables", **options)


def functional(layer=None):
    """A model whose output is the row itself, so that every element's gradient is 1."""
    layer = layer or collection()
    ids = {"f": keras.Input((), dtype="int64", name="f")}
    return keras.Model(ids, layer(ids)["f"]), layer


def total(labels, rows):
    del labels
    return tf.reduce_sum(rows)


def ranking_model(optimizer=OWN):
    tables = [TableConfig(n, 4, 2, Constant(1.0), optimizer) for n in "uv"]
    features = tuple(FeatureConfig(t.name, t) for t in tables)
    return MatrixFactorization(MatrixFactorizationConfig(0, features))


PAIR = {"u": np.array([1], "int64"), "v": np.array([2], "int64")}
LABEL = np.ones((1, 1), "f")


def row(layer, table="t", number=1):
    return layer.tables[table].read_rows(number, 1).numpy()[0]


def step(model, optimizer, ids, scaled=lambda loss: loss):
    with tf.GradientTape() as tape:
        loss = scaled(tf.reduce_sum(model(ids)))
    weights = model.trainable_variables
    optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))


def test_an_assigned_rate_reaches_tables_of_a_functional_model():
    model, layer = functional()
    model.compile(keras.optimizers.SGD(0.2), total)
    moved = [1.0]
    for rate in (0.2, 0.05, 0.0, 0.4):
        model.optimizer.learning_rate.assign(rate)
        model.fit(IDS, LABEL, verbose=0)
        moved.append(row(layer)[0])
    # The table's 0.5 holds at the optimizer's 0.2.
    np.testing.assert_allclose(-np.diff(moved), [0.5, 0.125, 0.0, 1.0], rtol=1e-6)


def test_a_callback_reaches_tables_of_a_model_from_the_first_step_on():
    model = ranking_model(Adagrad(0.5))
    model.compile(keras.optimizers.SGD(0.2), total, run_eagerly=True)
    rates = [0.0, 0.02]
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch: rates[epoch])
    before = row(model.embeddings, "u")
    model.fit(PAIR, LABEL, callbacks=[schedule], verbose=0)
    np.testing.assert_array_equal(row(model.embeddings, "u"), before)
    model.fit(PAIR, LABEL, callbacks=[schedule], initial_epoch=1, epochs=2, verbose=0)
    # Adagrad's accumulator has had the gradient of 1 twice.
    expected = before - 0.5 * 0.1 / np.sqrt(2)
    np.testing.assert_allclose(row(model.embeddings, "u"), expected, rtol=1e-5)


def test_an_ensemble_and_a_loop_of_ones_own_follow():
    config = ranking_model().config
    model = Ensemble(config, 2, model=MatrixFactorization)
    model.compile(keras.optimizers.SGD(0.1), total)
    model.optimizer.learning_rate.assign(0.3)
    step(model, model.optimizer, PAIR)
    # Each member's logit counts half.
    np.testing.assert_allclose(row(model.collections[1], "u"), 1 - 3 * 0.5 * 0.5, rtol=1e-6)

    layer, optimizer = collection(), keras.optimizers.SGD(0.1)
    layer.follow(optimizer)
    optimizer.learning_rate.assign(0.02)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(IDS)["f"])
    tape.gradient(loss, layer.trainable_variables)
    np.testing.assert_allclose(row(layer), 0.9, rtol=1e-6)


def test_models_that_train_a_layer_by_turns_keep_their_rates():
    layer = collection()
    first, second = functional(layer)[0], functional(layer)[0]
    first.compile(keras.optimizers.SGD(0.2), total, run_eagerly=True)
    second.compile(keras.optimizers.SGD(0.4), total, run_eagerly=True)
    moved = [1.0]
    for model, rate in ((first, 0.2), (first, 0.1), (second, 0.4), (first, 0.1), (second, 0.1)):
        model.optimizer.learning_rate.assign(rate)
        model.fit(IDS, LABEL, verbose=0)
        moved.append(row(layer)[0])
    np.testing.assert_allclose(-np.diff(moved), [0.5, 0.25, 0.5, 0.25, 0.125], rtol=1e-5)


def test_the_log_says_at_which_rate_a_functional_model_begins(caplog):
    model, _ = functional()
    model.compile(keras.optimizers.SGD(0.2), total, run_eagerly=True)
    with caplog.at_level(logging.WARNING, logger="absl"):
        model.fit(IDS, LABEL, epochs=2, verbose=0)
    (record,) = [r for r in caplog.records if "'tables'" in r.getMessage()]
    assert "hold at its rate in this first step, 0.2" in record.getMessage()


def test_a_saved_model_goes_on_at_the_rates_that_it_had(tmp_path):
    model = ranking_model()
    model.compile(keras.optimizers.SGD(0.2), "mse", run_eagerly=True)
    model.optimizer.learning_rate.assign(0.05)
    model.fit(PAIR, LABEL, verbose=0)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.embeddings.reference_rate == pytest.approx(0.2)
    for one in (model, loaded):
        step(one, one.optimizer, PAIR)
    np.testing.assert_array_equal(row(loaded.embeddings, "u"), row(model.embeddings, "u"))


NOT_FOLLOWED = [
    {"clipnorm": 1.0},
    {"clipvalue": 0.5},
    {"global_clipnorm": 1.0},
    {"weight_decay": 0.01},
    {"use_ema": True},
    *([] if uses_legacy_keras() else [{"gradient_accumulation_steps": 4}]),
]


@pytest.mark.parametrize("options", NOT_FOLLOWED, ids=lambda o: next(iter(o)))
def test_what_tables_cannot_follow_is_refused(options):
    (name,) = options
    words = f"has {name}=.*cannot act on tables.*follow\\(None\\)"
    with pytest.raises(ValueError, match=words):
        ranking_model().compile(keras.optimizers.Adam(0.1, **options), "mse")
    model, layer = functional()
    model.compile(keras.optimizers.Adam(0.1, **options), total, run_eagerly=True)
    with pytest.raises(ValueError, match=words):
        model.fit(IDS, LABEL, verbose=0)
    np.testing.assert_array_equal(row(layer), [1.0, 1.0])
    layer.follow(None)
    model.fit(IDS, LABEL, verbose=0)
    np.testing.assert_allclose(row(layer), 0.5)


def test_weight_decay_of_the_other_layers_only():
    optimizer = keras.optimizers.AdamW(0.1)
    optimizer.exclude_from_weight_decay(var_names=["trap"])
    model = ranking_model()
    model.compile(optimizer, "mse")
    assert model.embeddings.reference_rate == pytest.approx(0.1)


def test_a_schedule_needs_schedules_of_the_tables():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    with pytest.raises(ValueError, match=r"tables \['u', 'v'\] a LearningRateSchedule"):
        ranking_model().compile(keras.optimizers.SGD(schedule), "mse")
    model = ranking_model(SGD(LearningRateSchedule(0.5)))
    model.compile(keras.optimizers.SGD(schedule), total, run_eagerly=True)
    model.fit(PAIR, LABEL, verbose=0)
    np.testing.assert_allclose(row(model.embeddings, "u"), 0.5)


def test_ftrl_follows_nothing():
    layer, optimizer = collection(FTRL(0.5)), keras.optimizers.SGD(0.1)
    layer.follow(optimizer)
    model, _ = functional(layer)
    step(model, optimizer, IDS)
    before = row(layer)
    assert (before != 1.0).all()
    optimizer.learning_rate.assign(0.05)
    with pytest.raises(tf.errors.InvalidArgumentError, match="FTRL.*cannot follow"):
        step(model, optimizer, IDS)
    np.testing.assert_array_equal(row(layer), before)


def test_a_rate_of_zero_is_no_reference():
    with pytest.raises(ValueError, match=r"learning rate 0.0, but.*follow\(optimizer, ref"):
        ranking_model().compile(keras.optimizers.SGD(0.0), "mse")
    layer, optimizer = collection(), keras.optimizers.SGD(0.0)
    layer.follow(optimizer, 0.1)
    model, _ = functional(layer)
    step(model, optimizer, IDS)
    np.testing.assert_array_equal(row(layer), [1.0, 1.0])


def scaling():
    return keras.mixed_precision.LossScaleOptimizer(keras.optimizers.SGD(0.1))


def test_a_loss_scale_is_refused():
    words = "cannot be trained by .*LossScaleOptimizer.*mixed_bfloat16"
    with pytest.raises(ValueError, match=words):
        ranking_model().compile(scaling(), "mse")
    layer = collection()
    with pytest.raises(ValueError, match=words):
        layer.follow(scaling())
    layer.follow(None)
    model, _ = functional(layer)
    model.compile(scaling(), total, run_eagerly=True)
    with pytest.raises(ValueError, match=words):
        model.fit(IDS, LABEL, verbose=0)
    np.testing.assert_array_equal(row(layer), [1.0, 1.0])
    if not uses_legacy_keras():
        with pytest.raises(ValueError, match="cannot be trained by SGD"):
            ranking_model().compile(keras.optimizers.SGD(0.1, loss_scale_factor=8.0), "mse")


def scaled_step(layer, optimizer, graph=False):
    """A step in float32 whose loss is multiplied; the table's gradient is that of row 1."""
    scale = optimizer.get_scaled_loss if uses_legacy_keras() else optimizer.scale_loss

    def run():
        with tf.GradientTape() as tape:
            loss = scale(tf.reduce_sum(layer(IDS)["f"]))
        tape.gradient(loss, layer.trainable_variables)

    (tf.function(run, autograph=False) if graph else run)()


UNKNOWN = "loop whose optimizer it does not know.* has a .*, which scales losses.*follow\\(None\\)"


@pytest.mark.parametrize("graph", [False, True])
def test_a_loop_of_an_unknown_optimizer_is_refused_where_one_scales(graph):
    layer = collection()
    same = types.SimpleNamespace(get_scaled_loss=tf.identity, scale_loss=tf.identity)
    scaled_step(layer, same, graph)
    np.testing.assert_allclose(row(layer), 0.5)
    optimizer = scaling()  # made after the first update
    with pytest.raises(ValueError, match=UNKNOWN):
        scaled_step(layer, optimizer, graph)
    np.testing.assert_allclose(row(layer), 0.5)
    with pytest.raises(ValueError, match="cannot be trained by .*LossScaleOptimizer"):
        layer.follow(optimizer)
    layer.follow(None)
    step(functional(layer)[0], keras.optimizers.SGD(0.1), IDS)
    np.testing.assert_allclose(row(layer), 0.0)
    del optimizer
    other = collection()
    step(functional(other)[0], keras.optimizers.SGD(0.1), IDS)
    np.testing.assert_allclose(row(other), 0.5)


@pytest.mark.skipif(uses_legacy_keras(), reason="Keras 2 has no loss_scale_factor.")
def test_a_factor_of_any_optimizer_is_refused_in_a_loop():
    layer = collection()
    optimizer = keras.optimizers.SGD(0.1)
    scaled_step(layer, optimizer)
    # As many as before, another one.
    optimizer = keras.optimizers.SGD(0.1, loss_scale_factor=8.0)
    with pytest.raises(ValueError, match=UNKNOWN):
        scaled_step(layer, optimizer)
    np.testing.assert_allclose(row(layer), 0.5)


def test_one_look_serves_until_an_optimizer_is_made(monkeypatch):
    model, looks = functional()[0], []
    optimizer = keras.optimizers.SGD(0.1)
    look = loss_scales._living
    monkeypatch.setattr(loss_scales, "_living", lambda kinds: looks.append(1) or look(kinds))
    monkeypatch.setattr(loss_scales, "_seen", None)
    for _ in range(4):
        step(model, optimizer, IDS)
    assert len(looks) == 1
    assert loss_scales._living({type(optimizer)}).count(optimizer) == 1


@pytest.fixture
def float16():
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy("mixed_float16")
    yield
    keras.mixed_precision.set_global_policy(before)


def test_a_global_policy_of_float16_is_refused(float16):
    model, layer = functional(collection(dtype="float32"))
    model.compile("sgd", total, run_eagerly=True)  # Keras wraps the optimizer
    with pytest.raises(ValueError, match="cannot be trained by .*LossScaleOptimizer"):
        model.fit(IDS, LABEL, verbose=0)
    loop, _ = functional(layer)
    optimizer = scaling()
    scaled = optimizer.get_scaled_loss if uses_legacy_keras() else optimizer.scale_loss
    with pytest.raises(ValueError, match="float16, that of .*the scale would be part"):
        step(loop, optimizer, IDS, scaled)
    np.testing.assert_array_equal(row(layer), [1.0, 1.0])
    assert loop(IDS).shape == (1, 2)  # without training, it may be looked up
    layer.follow(keras.optimizers.SGD(0.1))
    step(loop, keras.optimizers.SGD(0.1), IDS)
    np.testing.assert_allclose(row(layer), 0.5)


def test_a_float16_model_around_the_layer_is_refused():
    class Own(keras.Model):
        def __init__(self):
            super().__init__(dtype="mixed_float16", name="own")
            self.tables = collection(dtype="float32")

        def call(self, ids):
            return self.tables(ids)["f"]

    model = Own()
    with pytest.raises(ValueError, match="float16, that of 'own'"):
        step(model, keras.optimizers.SGD(0.1), IDS)
    np.testing.assert_array_equal(row(model.tables), [1.0, 1.0])
