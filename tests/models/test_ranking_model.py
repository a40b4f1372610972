"""What holds for every model: learning, gradients of tables, saving, configs, ensembles."""

import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm import models
from tf_dlrm.embeddings import Adagrad
from tf_dlrm.keras_api import keras

# The class, the number of dense features and of categorical ones, and the rest of its config.
MODELS = {
    "dlrm": (models.DLRM, 3, 3, {"bottom_mlp": (8, 4), "top_mlp": (8, 1)}),
    "dlrm_dcnv2": (
        models.DLRMDCNv2,
        3,
        3,
        {"bottom_mlp": (8, 4), "top_mlp": (8, 1), "cross_rank": 4},
    ),
    "dcn": (models.DCN, 3, 3, {"top_mlp": (8, 1)}),
    "matrix_factorization": (models.MatrixFactorization, 0, 2, {}),
    "fm": (models.FM, 3, 3, {}),
    "neumf": (models.NeuMF, 0, 2, {"gmf_dim": 2, "top_mlp": (8, 1)}),
    "wide_and_deep": (models.WideAndDeep, 3, 3, {"top_mlp": (8, 1)}),
    "deepfm": (models.DeepFM, 3, 3, {"top_mlp": (8, 1)}),
    "xdeepfm": (models.XDeepFM, 3, 3, {"top_mlp": (8, 1), "interaction_units": (4, 4)}),
}


def make_case(name, parts):
    model, dense, count, others = MODELS[name]
    features = parts.features(*[4] * count, optimizer=Adagrad(0.1))
    config = model.config_class(dense, features, seed=3, **others)
    inputs = parts.inputs(dense, count, rows=256)
    labels = ((inputs["C0"] % 3 == 0) | (inputs["C1"] % 2 == 0)).astype("f")[:, None]
    return model, config, inputs, labels


@pytest.fixture(params=MODELS)
def case(request, parts):
    """The class of a model, its config, inputs of 256 rows, and labels that follow from them."""
    return make_case(request.param, parts)


# What RankingModel does in the same way for every model: with dense features, and without.
COMMON = ("dlrm", "neumf")
OTHERS = [pytest.param(n, marks=pytest.mark.exhaustive) for n in MODELS if n not in COMMON]
COMMON_CASES = pytest.mark.parametrize("case", [*COMMON, *OTHERS], indirect=True)


def entropy_of_the_base_rate(labels):
    rate = labels.mean()
    return -rate * np.log(rate) - (1 - rate) * np.log(1 - rate)


@COMMON_CASES
def test_fit_learns(case):
    make, config, inputs, labels = case
    model = make(config)
    model.compile(keras.optimizers.Adam(0.01), keras.losses.BinaryCrossentropy(from_logits=True))
    losses = model.fit(inputs, labels, batch_size=32, epochs=25, verbose=0).history["loss"]
    assert losses[-1] < 0.3 * entropy_of_the_base_rate(labels) and losses[0] > losses[-1] + 0.1


def test_a_function_learns_and_what_it_learnt_is_saved(case, tmp_path):
    make, config, inputs, labels = case
    model = make(config, name="mine")

    @tf.function(autograph=False)
    def step(inputs, labels):
        with tf.GradientTape() as tape:
            logits = model(inputs, training=True)
            loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels, logits))
        weights = model.trainable_variables
        for weight, gradient in zip(weights, tape.gradient(loss, weights), strict=True):
            weight.assign_sub(0.3 * gradient)
        return loss

    batch = tf.nest.map_structure(tf.constant, (inputs, labels))
    of_any_size = tf.nest.map_structure(
        lambda tensor: tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype), batch
    )
    run = step.get_concrete_function(*of_any_size)
    losses = [float(run(*batch)) for _ in range(30)]
    assert losses[-1] < 0.3 * entropy_of_the_base_rate(labels) and losses[0] > losses[-1] + 0.1

    expected = model(inputs).numpy()
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert type(loaded) is make and loaded.config == config and loaded.name == "mine"
    np.testing.assert_array_equal(loaded(inputs), expected)
    path = tf.train.Checkpoint(model=model).write(str(tmp_path / "c"))
    other = make(dataclasses.replace(config, seed=4))
    assert not np.allclose(other(inputs), expected)
    tf.train.Checkpoint(model=other).read(path).assert_existing_objects_matched()
    np.testing.assert_array_equal(other(inputs), expected)


@COMMON_CASES
def test_predict_gives_the_logits_of_a_batch_that_ends_early(case):
    make, config, inputs, _ = case
    model = make(config)
    found = model.predict(inputs, batch_size=100, verbose=0)
    assert found.shape == (256, 1)
    np.testing.assert_allclose(found, model(inputs), rtol=1e-5, atol=1e-6)


def test_a_step_moves_a_table_by_its_gradient(case, parts):
    make, config, inputs, labels = case
    features = parts.features(*config.dims)  # SGD(0.1)
    model = parts.randomized(make(dataclasses.replace(config, features=features)))
    table = model.embeddings.tables["T0"]
    before = table.read_rows().numpy()

    def loss():
        logits = model(inputs)
        return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels, logits))

    with tf.GradientTape() as tape:
        value = loss()
    saved = model.embeddings.tables.to_arrays()
    tape.gradient(value, model.trainable_variables)
    gradient = (before - table.read_rows().numpy()) / 0.1
    assert np.linalg.norm(gradient) > 0.01
    model.embeddings.tables.assign_arrays(saved)
    direction = gradient / np.linalg.norm(gradient)
    ends = []
    for sign in (1, -1):
        table.assign_rows(before + sign * 1e-2 * direction, 0)
        ends.append(float(loss()))
    np.testing.assert_allclose((ends[0] - ends[1]) / 2e-2, np.linalg.norm(gradient), rtol=0.02)


def test_every_weight_has_a_gradient(case, parts):
    make, config, inputs, labels = case
    model = parts.randomized(make(config))
    with tf.GradientTape() as tape:
        logits = model(inputs)
        loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels, logits))
    weights = [w for w in model.trainable_variables if len(w.shape)]
    for weight, gradient in zip(weights, tape.gradient(loss, weights), strict=True):
        assert gradient is not None and np.abs(gradient).max() > 0, weight.name


def test_batch_of_one_equals_the_batch(case):
    make, config, inputs, _ = case
    model = make(config)
    whole = model(inputs).numpy()
    one = model({name: value[7:8] for name, value in inputs.items()})
    np.testing.assert_allclose(one, whole[7:8], rtol=1e-5, atol=1e-6)
    assert np.std(whole) > 0


def weighted_bags(inputs):
    """The inputs with two ids and their weights in place of each id of C1."""
    bags = np.stack([inputs["C1"], (inputs["C1"] + 7) % 20], 1)
    return bags, np.random.default_rng(5).normal(size=bags.shape).astype("f")


@COMMON_CASES
def test_weights_of_ids_count_in_the_bags_and_have_gradients(case, parts):
    make, config, inputs, _ = case
    model = parts.randomized(make(config))
    bags, weights = weighted_bags(inputs)
    vectors = model.embeddings({name: ids for name, ids in inputs.items() if name != "dense"})
    rows = model.embeddings.tables["T1"].read_rows().numpy()
    summed = np.einsum("bh,bhd->bd", weights, rows[bags])
    expected = model.logits_of(inputs.get("dense"), {**vectors, "C1": tf.constant(summed)})
    np.testing.assert_allclose(model(inputs | {"C1": (bags, weights)}), expected, 1e-4, 1e-5)
    variable = tf.Variable(weights)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(model(inputs | {"C1": (bags, variable)}))
    step = np.zeros_like(weights)
    step[3, 1] = 1e-2
    ends = [
        tf.reduce_sum(model(inputs | {"C1": (bags, weights + sign * step)}, training=False)).numpy()
        for sign in (1, -1)
    ]
    slope = (ends[0] - ends[1]) / 2e-2
    np.testing.assert_allclose(tape.gradient(total, variable)[3, 1], slope, rtol=0.05, atol=0.02)
    shapes = {name: (7,) for name in inputs} | {"C0": ((7, 2), (7, 2))}
    shapes.pop("dense", None)  # so that the shapes of a pair come first
    assert model.compute_output_shape(shapes) == (7, 1)
    with pytest.raises(ValueError, match="'C1' of .* must be ids, or a tuple of ids and their wei"):
        model(inputs | {"C1": (bags, weights, weights)})


@COMMON_CASES
def test_fit_takes_weights_of_ids(case):
    make, config, inputs, labels = case
    model = make(config)
    weighted = inputs | {"C1": weighted_bags(inputs)}
    model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    losses = model.fit(weighted, labels, batch_size=64, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_config_round_trip_and_seeds(case):
    make, config, inputs, _ = case
    assert type(config).from_json(config.to_json()) == config
    same, other = make(config), make(dataclasses.replace(config, seed=4))
    np.testing.assert_array_equal(make(config)(inputs), same(inputs))
    weights = zip(same.trainable_variables, other.trainable_variables, strict=True)
    for ours, theirs in weights:
        if len(ours.shape) > 1:
            assert not np.array_equal(ours, theirs), ours.name


def test_no_two_layers_begin_alike(case):
    make, config, *_ = case
    drawn = [w.numpy().ravel() for w in make(config).trainable_variables]
    drawn = [values for values in drawn if len(values) >= 8 and values.std() > 0]
    for one, two in itertools.combinations(drawn, 2):
        size = min(len(one), len(two))
        assert abs(np.corrcoef(one[:size], two[:size])[0, 1]) < 0.99


@COMMON_CASES
def test_an_ensemble_is_the_mean_of_its_members(case, tmp_path):
    make, config, inputs, _ = case
    ensemble = models.Ensemble(config, 2, model=make)
    alone = [make(dataclasses.replace(config, seed=3 + 100_003 * k))(inputs) for k in range(2)]
    np.testing.assert_allclose(ensemble(inputs), np.mean(alone, axis=0), atol=1e-6)
    assert np.abs(alone[0] - alone[1]).max() > 0.01
    ensemble.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert type(loaded.members[1]) is make
    np.testing.assert_array_equal(loaded(inputs), ensemble(inputs))


def test_bad_inputs_are_sentences(case):
    make, config, inputs, _ = case
    model = make(config)
    with pytest.raises(ValueError, match=r"has entries \['C9'\]"):
        model({**inputs, "C9": inputs["C0"]})
    with pytest.raises(ValueError, match=r"ids has no entries \['C1'\]"):
        model({k: v for k, v in inputs.items() if k != "C1"})
    if config.dense_features:
        with pytest.raises(ValueError, match=r"have no 'dense', the dense features, only \['C0'"):
            model({k: v for k, v in inputs.items() if k != "dense"})
        with pytest.raises(ValueError, match=r"shape \[batch, 3\], but has \(256, 2\)"):
            model({**inputs, "dense": inputs["dense"][:, :2]})


def test_a_config_of_another_model_is_a_sentence(parts):
    config = models.FMConfig(0, parts.features(4, 4))
    with pytest.raises(ValueError, match="config of DCN must be a DCNConfig, but is a FMConfig"):
        models.DCN(config)
