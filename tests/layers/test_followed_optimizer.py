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


def two_tables(optimizer=OWN):
    """As `ranking_model`, a functional model."""
    model = ranking_model(optimizer)
    layer = EmbeddingCollection(model.embeddings.features, name="tables")
    ids = {name: keras.Input((), dtype="int64", name=name) for name in "uv"}
    found = layer(ids)
    return keras.Model(ids, keras.layers.Dot(1)([found["u"], found["v"]]))


def tables_of(model):
    return getattr(model, "embeddings", None) or model.get_layer("tables")


def _by_keras_file(model, make, folder):
    model.save(folder / "m.keras")
    return keras.models.load_model(folder / "m.keras", custom_objects={"total": total})


def _compiled_otherwise(make):
    other = make()
    # The rate, too, comes from the file.
    other.compile(keras.optimizers.SGD(0.7), total)
    # Without, Keras leaves out what files have of an optimizer.
    other.optimizer.build(other.trainable_variables)
    return other


def _by_weights_file(model, make, folder):
    other = _compiled_otherwise(make)
    model.save_weights(folder / "m.weights.h5")
    other.load_weights(folder / "m.weights.h5")
    if uses_legacy_keras():  # whose file has all of the optimizer but that
        other.optimizer.learning_rate.assign(model.optimizer.learning_rate)
    return other


def _by_checkpoint(model, make, folder):
    other = _compiled_otherwise(make)
    path = tf.train.Checkpoint(model=model).save(str(folder / "c"))
    tf.train.Checkpoint(model=other).restore(path)
    return other


SAVED = [
    (make, road)
    for make in (ranking_model, two_tables)
    for road in (_by_keras_file, _by_weights_file, _by_checkpoint)
]


@pytest.mark.parametrize(("make", "road"), SAVED, ids=lambda f: f.__name__)
def test_training_goes_on_from_files_at_a_rate_that_was_cut(make, road, tmp_path):
    late = SAVED.index((make, road)) % 2
    model = make(Adagrad(0.5))
    model.compile(keras.optimizers.SGD(0.2), total)
    model.fit(PAIR, LABEL, verbose=0)
    model.optimizer.learning_rate.assign(0.05)
    model.fit(PAIR, LABEL, verbose=0)
    other = road(model, lambda: make(Adagrad(0.5)), tmp_path)
    before = row(tables_of(model), "u")
    for one in (model, other):
        np.testing.assert_allclose(one.optimizer.learning_rate, 0.05, rtol=1e-6)
        if late:  # a callback, before the first step
            one.optimizer.learning_rate.assign(0.1)
        one.fit(PAIR, LABEL, epochs=2, verbose=0)
    np.testing.assert_array_equal(row(tables_of(other), "u"), row(tables_of(model), "u"))
    np.testing.assert_array_equal(row(tables_of(other), "v", 2), row(tables_of(model), "v", 2))
    assert tables_of(other).reference_rate == pytest.approx(0.2)
    # Steps 3 and 4 of Adagrad, of gradients that become smaller, at a factor of 1/4 or 1/2.
    moved = np.abs(row(tables_of(model), "u") - before).max()
    factor = 0.5 if late else 0.25
    assert 0.5 < moved / (0.5 * factor * (3**-0.5 + 4**-0.5)) < 1.1


def test_a_loop_goes_on_from_a_checkpoint_at_a_rate_that_was_cut(tmp_path):
    def make(rate):
        layer, optimizer = collection(), keras.optimizers.SGD(rate)
        model, _ = functional(layer)
        optimizer.build(model.trainable_variables)
        return model, layer, optimizer, tf.train.Checkpoint(model=model, optimizer=optimizer)

    model, layer, optimizer, checkpoint = make(0.2)
    layer.follow(optimizer)
    step(model, optimizer, IDS)
    optimizer.learning_rate.assign(0.05)
    path = checkpoint.write(str(tmp_path / "c"))
    step(model, optimizer, IDS)
    np.testing.assert_allclose(row(layer), 1 - 0.5 - 0.125, rtol=1e-6)
    for follows_first in (True, False):
        model, other, optimizer, checkpoint = make(0.3)
        if follows_first:
            other.follow(optimizer)
        checkpoint.restore(path)
        if not follows_first:
            other.follow(optimizer)
        step(model, optimizer, IDS)
        np.testing.assert_array_equal(row(other), row(layer))


def test_another_optimizer_than_the_saved_one_begins_at_full_rates(tmp_path):
    model = ranking_model()
    model.compile(keras.optimizers.SGD(0.2), total)
    model.fit(PAIR, LABEL, verbose=0)
    model.save_weights(tmp_path / "m.weights.h5")
    path = tf.train.Checkpoint(embeddings=model.embeddings).write(str(tmp_path / "c"))
    for number in range(2):
        other = ranking_model()
        if number:
            other.load_weights(tmp_path / "m.weights.h5")
            other.compile(keras.optimizers.SGD(0.01), total)
        else:
            other.compile(keras.optimizers.SGD(0.01), total)
            tf.train.Checkpoint(embeddings=other.embeddings).restore(path)
        # Not even once it has made as many steps.
        for _ in range(3):
            other.fit(PAIR, LABEL, verbose=0)
            assert other.embeddings.reference_rate == pytest.approx(0.01)
    model.fit(PAIR, LABEL, epochs=3, verbose=0)
    np.testing.assert_array_equal(row(other.embeddings, "u"), row(model.embeddings, "u"))


def test_what_is_followed_next_is_traced_again():
    model = ranking_model()
    model.compile(keras.optimizers.SGD(0.2), total)
    model.optimizer.learning_rate.assign(0.1)
    before = row(model.embeddings, "u")
    moved = []
    for change in (lambda: None, lambda: model.embeddings.follow(None)):
        change()
        other = row(model.embeddings, "v", 2)[1]  # the gradient, behind a first-order column
        model.fit(PAIR, LABEL, verbose=0)
        moved.append((before - row(model.embeddings, "u"))[1] / other)
        before = row(model.embeddings, "u")
    np.testing.assert_allclose(moved, [0.25, 0.5], rtol=1e-5)


def test_an_h5_file_has_no_place_for_a_rate_that_was_cut(tmp_path):
    model, layer = functional()
    model.compile(keras.optimizers.SGD(0.2), "mse")
    model.fit(IDS, np.zeros((1, 2), "f"), verbose=0)
    path = str(tmp_path / "model.h5")
    model.save(path)
    model.optimizer.learning_rate.assign(0.05)
    with pytest.raises(ValueError, match="layer 'tables' follow .* was 0.2 and is 0.05: they"):
        model.save(path)
    model.save(path, include_optimizer=False)
    found = keras.models.load_model(path).get_layer("tables")
    np.testing.assert_array_equal(row(found), row(layer))


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


def test_a_global_policy_of_float16_is_refused_where_no_model_is_around(float16):
    layer = collection(dtype="float32")
    with pytest.raises(ValueError, match="float16, that of the global dtype policy"):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(IDS)["f"])
        tape.gradient(loss, layer.trainable_variables)
    np.testing.assert_array_equal(row(layer), [1.0, 1.0])


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
