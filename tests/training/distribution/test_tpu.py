"""Training on a TPU as far as it goes without one: the host stands in for its hardware."""

import types

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.embeddings import (
    Adagrad,
    FeatureConfig,
    LazyAdam,
    MixedDimension,
    MultipleHashing,
    QuotientRemainder,
    TableConfig,
)
from tf_dlrm.errors import UserError
from tf_dlrm.keras_api import keras
from tf_dlrm.models import DLRM, DLRMConfig, Ensemble
from tf_dlrm.serving.export import export_model
from tf_dlrm.tpu.placement import TpuPlan
from tf_dlrm.training.build import copy_weights
from tf_dlrm.training.distribution.tpu import (
    distribute_to_tpu,
    make_dense_part,
    make_tpu_strategy,
    make_tpu_training_steps,
    tpu_placement,
)
from tf_dlrm.training.steps import make_training_steps
from tfrecords.schema import CategoricalColumn, Schema

_BATCH = 8


def _config(optimizer=None, storage=None):
    optimizer = optimizer or Adagrad(0.1, initial_accumulator=0.1)
    large = TableConfig("large", 40, 4, optimizer=optimizer, combiner="mean", storage=storage)
    small = TableConfig("small", 6, 4, optimizer=optimizer)
    pairs = {"one": large, "two": large, "bags": large, "few": small}
    features = tuple(FeatureConfig(name, table) for name, table in pairs.items())
    return DLRMConfig(3, features, (5, 4), (6, 1), seed=2)


def _model(on_tpu, optimizer=None, seed_of_noise=None, storage=None):
    # Tables on the cores take no bags of different sizes.
    plan = TpuPlan(small_table_rows=1 if storage else 10) if on_tpu else None
    model = DLRM(_config(optimizer, storage), plan)
    dense_optimizer = keras.optimizers.Adam(0.02, jit_compile=False)
    dense_optimizer.build(model.trainable_variables)
    if seed_of_noise is not None:
        rng = np.random.default_rng(seed_of_noise)
        for variable in model.trainable_variables:
            if variable.shape.rank:
                variable.assign_add(rng.normal(size=variable.shape))
    return model, dense_optimizer


def _rows(count):
    """Returns rows of features and labels."""
    rng = np.random.default_rng(7)
    lengths = rng.integers(0, 4, count)
    features = {
        "dense": tf.constant(rng.normal(size=(count, 3)), tf.float32),
        "one": tf.constant(rng.integers(0, 40, count)),
        "two": tf.constant(rng.integers(0, 40, (count, 2)), tf.int32),
        "bags": tf.RaggedTensor.from_row_lengths(
            tf.constant(rng.integers(0, 40, lengths.sum())), lengths
        ),
        "few": tf.constant(rng.integers(0, 6, count)),
    }
    return features, tf.constant(rng.integers(0, 2, count), tf.float32)


def _batches(count):
    return tf.data.Dataset.from_tensor_slices(_rows(count)).batch(_BATCH)


def _dense_weights(model):
    tables = {id(weight) for weight in model.embeddings.table_weights}
    return [weight.numpy() for weight in model.weights if id(weight) not in tables]


def _assert_equal_models(first, second, **tolerance):
    for wanted, found in zip(_dense_weights(first), _dense_weights(second), strict=True):
        np.testing.assert_allclose(found, wanted, **tolerance)
    wanted, found = (model.embeddings.tables.to_arrays() for model in (first, second))
    assert set(found) == set(wanted)
    for key, value in wanted.items():
        np.testing.assert_allclose(found[key], value, err_msg=key, **tolerance)


# Each of these compiles two training steps; `tests/tpu/test_placement.py` has the placement alone.
@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [None, LazyAdam(0.05)], ids=["adagrad", "lazy_adam"])
def test_steps_learn_what_those_of_one_device_learn(optimizer):
    strategy = tf.distribute.get_strategy()
    # The last batch has 3 rows; the others of its 8 must leave no trace, in Adam's moments neither.
    batches = _batches(3 * _BATCH + 3)
    local, local_optimizer = _model(False, optimizer)
    model, dense_optimizer = _model(True, optimizer)
    assert tpu_placement(model).hardware_features == ("one", "two", "bags")
    wanted = make_training_steps(local, local_optimizer)(iter(batches), tf.constant(4))
    steps = make_tpu_training_steps(model, dense_optimizer)
    iterator = iter(distribute_to_tpu(strategy, batches, _BATCH, model))
    found = steps(iterator, tf.constant(1)) + steps(iterator, tf.constant(3))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    _assert_equal_models(local, model, rtol=1e-4, atol=1e-6)
    assert model.embeddings.tables.updates.numpy() == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("storage", "parts"),
    [
        (QuotientRemainder(2, "add"), ["quotient", "remainder"]),
        (MixedDimension(2), []),
        (MultipleHashing(5), ["hash_0", "hash_1"]),
    ],
    ids=["quotient_remainder", "mixed_dimension", "multiple_hashing"],
)
def test_tables_stored_as_smaller_ones_learn_what_those_of_one_device_learn(storage, parts):
    batches = _batches(2 * _BATCH + 3)
    local, local_optimizer = _model(False, storage=storage)
    model, dense_optimizer = _model(True, storage=storage)
    names = [f"{name}.{part}" for name in ("one", "two", "bags") for part in parts]
    names = names or ["one", "two", "bags"]
    assert tpu_placement(model).hardware_features == (*names, "few")
    wanted = make_training_steps(local, local_optimizer)(iter(batches), tf.constant(3))
    shared = distribute_to_tpu(tf.distribute.get_strategy(), batches, _BATCH, model)
    found = make_tpu_training_steps(model, dense_optimizer)(iter(shared), tf.constant(3))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    _assert_equal_models(local, model, rtol=1e-4, atol=1e-6)


def test_bags_of_ids_that_need_vectors_of_their_own_are_refused():
    model, _ = _model(True, storage=QuotientRemainder(2))
    with pytest.raises(ValueError, match="Feature 'two' may have several ids, whose vectors Quot"):
        distribute_to_tpu(tf.distribute.get_strategy(), _batches(_BATCH), _BATCH, model)


@pytest.mark.slow
def test_dense_part_is_compiled_to_what_it_is_without():
    strategy = tf.distribute.get_strategy()
    features, labels = _rows(_BATCH)
    labels = tf.concat([labels[:-2], [-1.0, -1.0]], 0)
    hardware = ("one", "two", "bags")
    rest = {name: column for name, column in features.items() if name not in hardware}
    rng = np.random.default_rng(8)
    vectors = {name: tf.constant(rng.normal(size=(_BATCH, 4)), tf.float32) for name in hardware}
    results = []
    models = [_model(True, seed_of_noise=1) for _ in range(2)]
    for (model, optimizer), jit_compile in zip(models, (False, True), strict=True):
        part = make_dense_part(model, optimizer, strategy)
        part = tf.function(part, jit_compile=jit_compile)
        if jit_compile:
            text = part.experimental_get_compiler_ir(vectors, rest, labels)(stage="hlo")
            assert text.startswith("HloModule") and "dot" in text
        results.append(part(vectors, rest, labels))
    (loss, gradients), (compiled_loss, compiled_gradients) = results
    np.testing.assert_allclose(compiled_loss, loss, rtol=1e-5)
    for name in hardware:
        assert np.abs(gradients[name][:-2]).max() > 1e-3
        np.testing.assert_array_equal(gradients[name][-2:], np.zeros((2, 4)))
        np.testing.assert_allclose(
            compiled_gradients[name], gradients[name], rtol=1e-4, atol=1e-7, err_msg=name
        )
    _assert_equal_models(models[0][0], models[1][0], rtol=1e-4, atol=1e-6)
    # Its small table has learnt, and only that.
    fresh, _ = _model(True)
    before, after = (m.embeddings.tables.to_arrays() for m in (fresh, models[1][0]))
    assert not np.array_equal(before["small:rows"], after["small:rows"])
    np.testing.assert_array_equal(before["large:rows"], after["large:rows"])


def test_batches_are_filled_up_and_checked():
    model, _ = _model(True)
    strategy = tf.distribute.get_strategy()
    features, labels = _rows(5)
    batches = tf.data.Dataset.from_tensors((features, labels))
    found, found_labels = next(iter(distribute_to_tpu(strategy, batches, _BATCH, model)))
    np.testing.assert_array_equal(found_labels, [*labels.numpy(), -1, -1, -1])
    for name in ("dense", "one", "few"):
        wanted = np.concatenate([features[name], np.repeat(features[name][:1], 3, axis=0)])
        np.testing.assert_array_equal(found[name], wanted)
        assert found[name].shape[0] == _BATCH
    assert found["two"].to_list()[5:] == [features["two"][0].numpy().tolist()] * 3
    assert (
        found["bags"].to_list() == features["bags"].to_list() + features["bags"].to_list()[:1] * 3
    )
    assert found["bags"].row_splits.shape == [_BATCH + 1]
    bad = tf.data.Dataset.from_tensors(({**features, "few": tf.fill([5], 6)}, labels))
    with pytest.raises(tf.errors.InvalidArgumentError, match="Feature few has the id 6 at row 0"):
        next(iter(distribute_to_tpu(strategy, bad, _BATCH, model)))
    with pytest.raises(tf.errors.InvalidArgumentError, match="more rows than the batch size, 4"):
        next(iter(distribute_to_tpu(strategy, batches, 4, model)))


def test_replicas_get_equal_shares():
    model, _ = _model(True)
    strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
    features, labels = _rows(_BATCH - 1)
    batches = tf.data.Dataset.from_tensors((features, labels)).repeat(2)
    shares = distribute_to_tpu(strategy, batches, _BATCH, model)
    ids = np.append(features["one"], features["one"][0])
    bags = features["bags"].to_list()
    bags.append(bags[0])
    count = 0
    for own_features, own_labels in shares:
        for k, share in enumerate(strategy.experimental_local_results(own_labels)):
            np.testing.assert_array_equal(share, np.append(labels, -1)[k::2])
            own = {
                name: strategy.experimental_local_results(own_features[name])[k]
                for name in ("one", "bags")
            }
            np.testing.assert_array_equal(own["one"], ids[k::2])
            assert own["bags"].to_list() == bags[k::2]
            assert own["one"].shape == [_BATCH // 2]
        count += 1
    assert count == 2
    with pytest.raises(UserError, match="--batch_size=7 must be a multiple of 2"):
        distribute_to_tpu(strategy, batches, 7, model)


@pytest.mark.slow
def test_one_device_goes_on_where_a_tpu_stopped_and_back(tmp_path):
    strategy = tf.distribute.get_strategy()
    batches = _batches(2 * _BATCH)
    model, optimizer = _model(True)
    steps = make_tpu_training_steps(model, optimizer)
    steps(iter(distribute_to_tpu(strategy, batches, _BATCH, model)), tf.constant(2))
    saved = tf.train.Checkpoint(model=model, optimizer=optimizer).write(str(tmp_path / "tpu"))
    local, local_optimizer = _model(False, seed_of_noise=1)
    tf.train.Checkpoint(model=local, optimizer=local_optimizer).read(saved).assert_consumed()
    _assert_equal_models(model, local, rtol=0)
    make_training_steps(local, local_optimizer)(iter(batches), tf.constant(1))
    steps(iter(distribute_to_tpu(strategy, batches, _BATCH, model)), tf.constant(1))
    _assert_equal_models(local, model, rtol=1e-4, atol=1e-6)
    saved = tf.train.Checkpoint(model=local, optimizer=local_optimizer).write(str(tmp_path / "one"))
    tf.train.Checkpoint(model=model, optimizer=optimizer).read(saved).assert_consumed()
    _assert_equal_models(local, model, rtol=0)


def test_the_exported_model_predicts_what_the_trained_one_does(tmp_path):
    table = TableConfig("c", 30, 4, optimizer=Adagrad(0.1, initial_accumulator=0.1))
    config = DLRMConfig(2, (FeatureConfig("c", table),), (4,), (1,))
    schema = Schema(dense=("x", "y"), categorical=(CategoricalColumn("c", 30),))
    model = DLRM(config, TpuPlan(small_table_rows=0))
    optimizer = keras.optimizers.SGD(0.1, jit_compile=False)
    optimizer.build(model.trainable_variables)
    rng = np.random.default_rng(9)
    features = {
        "dense": tf.constant(rng.normal(size=(_BATCH, 2)), tf.float32),
        "c": tf.constant(rng.integers(0, 30, _BATCH)),
    }
    batches = tf.data.Dataset.from_tensors((features, tf.constant([0.0, 1.0] * 4))).repeat(3)
    batches = distribute_to_tpu(tf.distribute.get_strategy(), batches, _BATCH, model)
    make_tpu_training_steps(model, optimizer)(iter(batches), tf.constant(3))
    local = DLRM(config)
    copy_weights(model, local)
    export_model(local, schema, str(tmp_path / "export"), {})
    served = tf.saved_model.load(str(tmp_path / "export")).signatures["serving_default"]
    found = served(**features)["probability"]
    wanted = tf.sigmoid(tf.reshape(model(features, training=False), [-1]))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert np.ptp(found) > 1e-4


def test_models_that_a_tpu_cannot_have_are_refused():
    local, optimizer = _model(False)
    with pytest.raises(ValueError, match="in a LocalPlacement, not on a TPU"):
        make_tpu_training_steps(local, optimizer)
    with pytest.raises(ValueError, match="serves one collection of tables, but the model has 2"):
        make_tpu_training_steps(Ensemble(_config(), 2, TpuPlan()), optimizer)


def test_without_a_tpu_the_error_says_what_to_do(monkeypatch):
    for name, message in (
        ("", "--distribution=tpu needs --tpu"),
        ("local", "--tpu=local, but TensorFlow finds no TPU .* tensorflow-tpu"),
    ):
        with pytest.raises(UserError, match=message):
            make_tpu_strategy(types.SimpleNamespace(tpu=name))

    def no_such(tpu):
        raise OSError(f"no metadata of {tpu}")

    monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", no_such)
    with pytest.raises(UserError, match="--tpu=mine cannot be reached: no metadata of mine."):
        make_tpu_strategy(types.SimpleNamespace(tpu="mine"))
