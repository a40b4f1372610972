"""The weighted loss, and predictions that are kept away from 0 and 1."""

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.embeddings import SGD, FeatureConfig, TableConfig
from tf_dlrm.keras_api import keras
from tf_dlrm.models import DLRM, DLRMConfig, Ensemble
from tf_dlrm.training.loss import CrossEntropy
from tf_dlrm.training.restore import CheckpointedRun
from tf_dlrm.training.run import open_source, train
from tf_dlrm.training.steps import make_training_steps


def model(clamp=0.0, dim=4):
    table = TableConfig("t", 10, dim, optimizer=SGD(0.1))
    config = DLRMConfig(2, (FeatureConfig("f", table),), (5, dim), (6, 1), prediction_clamp=clamp)
    return DLRM(config)


def rows(count=12):
    rng = np.random.default_rng(0)
    features = {
        "dense": tf.constant(rng.normal(size=(count, 2)), tf.float32),
        "f": tf.constant(rng.integers(0, 10, count)),
    }
    return features, tf.constant(rng.integers(0, 2, count), tf.float32)


def test_rows_count_as_much_as_their_label_says():
    labels, logits = np.array([0.0, 1.0, 1.0, 0.25]), np.array([-1.0, 2.0, -30.0, 0.5])
    p = 1 / (1 + np.exp(-logits))
    wanted = -(3.0 * labels * np.log(p) + 0.5 * (1 - labels) * np.log1p(-p))
    got = CrossEntropy(0.5, 3.0)(tf.constant(labels[:3]), tf.constant(logits[:3]))
    np.testing.assert_allclose(got, wanted[:3], rtol=1e-6)
    plain = CrossEntropy()(tf.constant(labels), tf.constant(logits))
    np.testing.assert_allclose(plain, -(labels * np.log(p) + (1 - labels) * np.log1p(-p)))


def test_a_step_with_weights_is_a_step_on_the_weighted_mean():
    features, labels = rows()
    first, second = model(), model()
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build(first.trainable_variables)
    batches = tf.data.Dataset.from_tensors((features, labels))
    loss = CrossEntropy(0.5, 3.0)
    got = make_training_steps(first, optimizer, loss_of=loss)(iter(batches), tf.constant(1))
    with tf.GradientTape() as tape:
        p = tf.sigmoid(second(features, training=True)[:, 0])
        of_rows = 3.0 * labels * tf.math.log(p) + 0.5 * (1 - labels) * tf.math.log(1 - p)
        wanted = -tf.reduce_mean(of_rows)
    gradients = tape.gradient(wanted, second.trainable_variables)
    np.testing.assert_allclose(got, wanted, rtol=1e-5)
    for variable, other, gradient in zip(
        first.trainable_variables, second.trainable_variables, gradients, strict=True
    ):
        np.testing.assert_allclose(variable, other - 0.1 * gradient, rtol=1e-4, atol=1e-6)
    tables = [m.embeddings.tables["t"].read_rows() for m in (first, second)]
    np.testing.assert_allclose(*tables, rtol=1e-4, atol=1e-6)


def test_predictions_stay_away_from_0_and_1_and_have_no_gradient_there():
    clamped, free = model(0.3), model()
    for each in (clamped, free):
        each.top_mlp.dense_layers[-1].bias.assign([0.85])
    features, _ = rows(50)
    features["dense"] *= 5.0
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(features["dense"])
        logits, plain = clamped(features), free(features)
    wanted = np.clip(tf.sigmoid(plain), 0.3, 0.7)
    np.testing.assert_allclose(tf.sigmoid(logits), wanted, rtol=1e-5)
    cut = (wanted == np.float32(0.7))[:, 0]
    assert 0 < cut.sum() < 50
    got, reached = (tape.gradient(each, features["dense"]).numpy() for each in (logits, plain))
    np.testing.assert_array_equal(got[cut], 0.0)
    np.testing.assert_array_equal(got[~cut], reached[~cut])
    assert np.abs(reached[cut]).max() > 0


def test_members_of_an_ensemble_are_clamped_too():
    members = Ensemble(model(0.49).config, 3)
    for member in members.members:
        member.top_mlp.dense_layers[-1].bias.assign([5.0])
    most = np.log(0.51 / 0.49)
    np.testing.assert_allclose(members(rows()[0]), np.full((12, 1), most), rtol=1e-5)


def test_a_run_weighs_its_loss_as_its_flags_say(tiny, finished):
    # Without a bias to begin with, calibration is what the weights make of it.
    plain = finished[1]
    positive = train(tiny(model_dir="", positive_weight=5.0))
    assert positive["calibration"] > 1.2 * plain["calibration"]
    # Four times the loss is four times the rate of SGD, to the bit: 4 is a power of 2.
    rates = {"embedding_learning_rate": 0.025, "dense_learning_rate": 0.025}
    weights = {"positive_weight": 4.0, "negative_weight": 4.0}
    four_times = train(tiny(model_dir="", **weights, **rates))
    assert four_times["log_loss"] == pytest.approx(plain["log_loss"], rel=1e-6)


@pytest.mark.parametrize(
    "where",
    [
        pytest.param({"distribution": "mirrored", "virtual_devices": 2}, id="two_replicas"),
        pytest.param({"distribution": "tpu", "tpu": "host"}, id="tpu_host", marks=pytest.mark.slow),
    ],
)
def test_a_run_weighs_its_loss_alike_elsewhere(tiny, weighted, where):
    wanted, options = weighted
    found = train(tiny(model_dir="", **options, **where))
    for name in ("log_loss", "calibration"):
        assert found[name] == pytest.approx(wanted[name], rel=1e-5)


@pytest.fixture(scope="module")
def weighted(make_tiny, tmp_path_factory):
    """What a run with weights learns on one device, and its options."""
    options = {"positive_weight": 5.0, "negative_weight": 0.5, "train_steps": 6}
    options |= {"embedding_optimizer": "adagrad", "embedding_initial_accumulator": 0.1}
    return train(make_tiny(tmp_path_factory.mktemp("weighted"), model_dir="", **options)), options


def test_a_run_and_what_it_exports_are_clamped_as_its_flags_say(tiny, tmp_path):
    config = tiny(prediction_clamp=0.45, export_dir=str(tmp_path / "export"))
    train(config)
    features, _ = next(iter(open_source(config.data).batches("evaluation", 700)))
    restored, _ = CheckpointedRun(config.run.model_dir).restore()
    ids = {k: v if k == "dense" else tf.cast(v, tf.int64) for k, v in features.items()}
    served = tf.saved_model.load(str(tmp_path / "export")).signatures["serving_default"](**ids)
    for found in (tf.sigmoid(restored(features))[:, 0], served["probability"]):
        # Three in four labels or so are 1, so without the clamp they were above.
        np.testing.assert_allclose(np.max(found), 0.55, rtol=1e-6)
        assert np.min(found) > 0.45 - 1e-6
    assert restored.config.prediction_clamp == 0.45


@pytest.mark.parametrize("clamp", [-0.1, 0.5, float("nan")])
def test_a_clamp_outside_of_its_range_is_a_sentence(clamp):
    with pytest.raises(ValueError, match=r"prediction_clamp must be at least 0 and less than 0.5"):
        model(clamp)
