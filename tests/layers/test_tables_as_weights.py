"""Every road of Keras that carries weights carries the rows of tables."""

import copy
import pickle

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.embeddings import SGD, Adagrad, FeatureConfig, TableConfig
from tf_dlrm.embeddings.plan import COLUMN_WISE, DATA_PARALLEL, ROW_WISE, Plan, TablePlan
from tf_dlrm.keras_api import keras, uses_legacy_keras
from tf_dlrm.layers import EmbeddingCollection

# Two in one stack, and one of another width.
_TABLES = (
    TableConfig("users", 6, 2, optimizer=Adagrad(0.1)),
    TableConfig("items", 4, 2, optimizer=Adagrad(0.1)),
    TableConfig("cities", 3, 3, optimizer=SGD(0.1)),
)
_FEATURES = [FeatureConfig(table.name, table) for table in _TABLES]
_IDS = {
    "users": np.array([5, 0, 3]),
    "items": np.array([3, 2, 0]),
    "cities": np.array([0, 2, 1]),
}
# Of the tables 12, 8 and 9, and the trap.
_PARAMETERS = 30


def _rows(config, first=0.0):
    """Values of a table: all of all tables are different numbers."""
    number = [t.name for t in _TABLES].index(config.name)
    shape = (config.vocabulary_size, config.dim)
    return first + 100.0 * number + np.arange(np.prod(shape), dtype="f").reshape(shape)


def _fill(layer, first=0.0):
    for table in _TABLES:
        layer.tables[table.name].assign_rows(_rows(table, first))


def _check(layer, first=0.0):
    for table in _TABLES:
        found = layer.tables[table.name].read_rows()
        np.testing.assert_array_equal(found, _rows(table, first), err_msg=table.name)
    vectors = layer(_IDS, training=False)
    for table in _TABLES:
        np.testing.assert_array_equal(
            vectors[table.name], _rows(table, first)[_IDS[table.name]], err_msg=table.name
        )


def _model(name="model"):
    inputs = {name: keras.Input((), dtype="int64", name=name) for name in _IDS}
    vectors = EmbeddingCollection(_FEATURES, name="tables")(inputs)
    joined = keras.layers.Concatenate(name="joined")([vectors[name] for name in _IDS])
    return keras.Model(inputs, keras.layers.Dense(1, name="logit")(joined), name=name)


class _Outer(keras.Model):
    """A model of one's own around one that is functional."""

    def __init__(self):
        super().__init__()
        self.inner = _model("inner")
        self(_IDS)

    def call(self, inputs):
        return self.inner(inputs)


def _by_weights(model, folder):
    other = _model()
    other.set_weights(model.get_weights())
    return other


def _by_clone(model, folder):
    other = keras.models.clone_model(model)
    other.set_weights(model.get_weights())
    return other


def _by_layers(model, folder):
    other = _model()
    for mine, theirs in zip(other.layers, model.layers, strict=True):
        mine.set_weights(theirs.get_weights())
    return other


def _by_assigning(model, folder):
    other = _model()
    for mine, theirs in zip(other.weights, model.weights, strict=True):
        mine.assign(theirs)
    return other


def _by_h5(model, folder):
    model.save(str(folder / "model.h5"))
    return keras.models.load_model(str(folder / "model.h5"))


def _by_weights_file(model, folder):
    model.save_weights(str(folder / "model.weights.h5"))
    other = _model()
    other.load_weights(str(folder / "model.weights.h5"))
    return other


def _by_keras_file(model, folder):
    model.save(str(folder / "model.keras"))
    return keras.models.load_model(str(folder / "model.keras"))


def _by_copy(model, folder):
    return copy.deepcopy(model)


def _by_pickle(model, folder):
    return pickle.loads(pickle.dumps(model))


def _by_old_weights_file(model, folder):
    """Keras 2's `.h5` of weights, and its files by the names of layers; Keras 3 has none."""
    if not uses_legacy_keras():
        return _by_weights(model, folder)
    model.save_weights(str(folder / "weights.h5"))
    other = _model()
    other.load_weights(str(folder / "weights.h5"), by_name=True)
    return other


def _by_state_tree(model, folder):
    """Keras 3's tree of variables; Keras 2 has none."""
    if uses_legacy_keras():
        return _by_weights(model, folder)
    other = _model()
    other.compile("sgd")
    model.compile("sgd")
    other.set_state_tree(model.get_state_tree("numpy_array"))
    return other


def _by_pickled_layer(model, folder):
    other = _model()
    layer = pickle.loads(pickle.dumps(model.get_layer("tables")))
    layer({name: tf.constant(ids) for name, ids in _IDS.items()})
    other.get_layer("tables").set_weights(layer.get_weights())
    other.get_layer("logit").set_weights(model.get_layer("logit").get_weights())
    return other


ROADS = [
    _by_pickled_layer,
    _by_weights,
    _by_clone,
    _by_layers,
    _by_assigning,
    _by_h5,
    _by_weights_file,
    _by_keras_file,
    _by_copy,
    _by_pickle,
    _by_old_weights_file,
    _by_state_tree,
]


@pytest.mark.parametrize("road", ROADS, ids=lambda road: road.__name__[4:])
def test_a_road_carries_the_tables(road, tmp_path):
    model = _model()
    _fill(model.get_layer("tables"))
    other = road(model, tmp_path)
    _check(other.get_layer("tables"))
    np.testing.assert_array_equal(
        other.get_layer("logit").get_weights()[0], model.get_layer("logit").get_weights()[0]
    )
    # They share nothing.
    _fill(other.get_layer("tables"), 7.0)
    _check(model.get_layer("tables"))


def test_weights_of_a_model_in_a_model():
    model, other = _Outer(), _Outer()
    _fill(model.inner.get_layer("tables"))
    other.set_weights(model.get_weights())
    _check(other.inner.get_layer("tables"))
    assert model.count_params() == _PARAMETERS + 7 + 1


def test_the_best_weights_of_early_stopping_have_the_best_tables():
    model = _model()
    layer = model.get_layer("tables")
    model.stop_training = False
    stopping = keras.callbacks.EarlyStopping("val_loss", patience=1, restore_best_weights=True)
    stopping.set_model(model)
    stopping.on_train_begin()
    for epoch, loss in enumerate((0.7, 0.5, 0.6)):
        _fill(layer, 1000.0 * epoch)
        stopping.on_epoch_end(epoch, {"val_loss": loss})
    stopping.on_train_end()
    assert model.stop_training
    _check(layer, 1000.0)


def test_parameters_count_the_tables():
    model = _model()
    lines = []
    model.summary(print_fn=lines.append)
    assert model.get_layer("tables").count_params() == _PARAMETERS
    assert model.count_params() == _PARAMETERS + 7 + 1
    text = "\n".join(lines)
    assert "Total params: 38" in text and "Trainable params: 9" in text


def test_a_keras_optimizer_does_not_see_the_tables():
    model = _model()
    assert [tuple(w.shape) for w in model.trainable_variables] == [(), (7, 1), (1,)]
    model.get_layer("tables").trainable = False
    assert [tuple(w.shape) for w in model.trainable_variables] == [(7, 1), (1,)]
    assert model.count_params() == _PARAMETERS + 7 + 1


def test_a_checkpoint_holds_each_table_once(tmp_path):
    path = tf.train.Checkpoint(model=_model()).write(str(tmp_path / "c"))
    found = {name: tuple(shape) for name, shape in tf.train.list_variables(path)}
    sizes = [int(np.prod(shape)) for shape in found.values() if len(shape) == 2]
    # Adagrad's accumulators of two tables, three tables, and the logit's kernel.
    assert sorted(sizes) == sorted([12, 8, 12, 8, 9, 7])


def test_an_h5_file_with_the_optimizer_has_no_place_for_slots(tmp_path):
    model = _model()
    model.compile(keras.optimizers.SGD(0.01), keras.losses.MeanSquaredError())
    path = str(tmp_path / "model.h5")
    model.save(path)  # nothing was trained
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model.get_layer("tables")(_IDS)["users"])
    tape.gradient(loss, model.trainable_variables)
    with pytest.raises(ValueError, match=r"no place for .* of tables \['users', 'items'\] in"):
        model.save(path)
    _fill(model.get_layer("tables"))
    model.save(path, include_optimizer=False)
    _check(keras.models.load_model(path).get_layer("tables"))


@pytest.mark.skipif(uses_legacy_keras(), reason="Keras 2 has no state trees.")
def test_a_state_tree_has_no_place_for_slots():
    model = _model()
    model.compile(keras.optimizers.SGD(0.01), keras.losses.MeanSquaredError())
    tree = model.get_state_tree("numpy_array")  # nothing was trained
    layer = model.get_layer("tables")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(_IDS)["users"])
    tape.gradient(loss, model.trainable_variables)
    words = r"state tree has no place for .* of tables \['users', 'items'\] in .* to .keras instead"
    with pytest.raises(ValueError, match=words):
        model.get_state_tree("numpy_array")

    class Callback:
        """As OrbaxCheckpoint, which needs a package."""

        save_weights_only = True

        def save(self):
            return model.get_state_tree("numpy_array")

    _fill(layer)
    rows = Callback().save()["non_trainable_variables"]
    found = [value for value in tf.nest.flatten(rows) if value.shape == (3, 3)]
    np.testing.assert_array_equal(found, [_rows(_TABLES[2])])
    model.set_state_tree(tree)
    assert np.abs(layer.tables["cities"].read_rows()).max() < 100.0  # not those of _fill


@pytest.mark.skipif(uses_legacy_keras(), reason="Keras 2 has no state trees.")
def test_a_state_tree_has_no_place_for_a_rate_that_was_cut():
    inputs = {"cities": keras.Input((), dtype="int64", name="cities")}
    vectors = EmbeddingCollection(_FEATURES[2:], name="tables")(inputs)
    model = keras.Model(inputs, vectors["cities"])
    model.compile(keras.optimizers.SGD(0.2), "mse", run_eagerly=True)
    model.fit({"cities": _IDS["cities"]}, np.zeros((3, 3), "f"), verbose=0)
    model.get_state_tree()
    model.optimizer.learning_rate.assign(0.05)
    with pytest.raises(ValueError, match="state tree has .* was 0.2 and is 0.05: they would begin"):
        model.get_state_tree()


def test_weights_of_another_layer_are_refused():
    model = _model()
    others = [FeatureConfig("users", TableConfig("users", 5, 2, optimizer=SGD(0.1)))]
    other = EmbeddingCollection(others)
    other.build()
    with pytest.raises(ValueError, match=r"shape|length"):
        model.get_layer("tables").set_weights(other.get_weights())


def _mirrored_model(plan):
    strategy = tf.distribute.MirroredStrategy(
        ["/cpu:0", "/cpu:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
    with strategy.scope():
        layer = EmbeddingCollection(_FEATURES, plan=plan, name="tables")
        inputs = {name: keras.Input((), dtype="int64", name=name) for name in _IDS}
        vectors = layer(inputs)
        outputs = keras.layers.Concatenate()([vectors[name] for name in _IDS])
        model = keras.Model(inputs, outputs)
        model.compile("sgd", "mse")
    return model, layer


def test_weights_under_a_strategy(tmp_path):
    plan = Plan(
        2,
        {
            "users": TablePlan(ROW_WISE, (0, 1)),
            "items": TablePlan(COLUMN_WISE, (1, 0)),
            "cities": TablePlan(DATA_PARALLEL),
        },
    )
    model, layer = _mirrored_model(plan)
    _fill(layer)
    other, carried = _mirrored_model(plan)
    other.set_weights(model.get_weights())
    _check(carried)
    # Copies are written on every device.
    copies = [v.numpy() for v in layer.tables.row_variables if v.shape == [3, 3]]
    carried_copies = [v.numpy() for v in carried.tables.row_variables if v.shape == [3, 3]]
    np.testing.assert_array_equal(carried_copies, copies)
    assert len(copies) == 2
