import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.embeddings import SGD, FeatureConfig, TableConfig
from tf_dlrm.keras_api import keras
from tf_dlrm.models import DLRM, DLRMConfig, Ensemble

TABLE = TableConfig("item", 20, 4, optimizer=SGD(0.5))
CONFIG = DLRMConfig(2, (FeatureConfig("item", TABLE),), (8, 4), (8, 1), seed=5)


def rows(count=64):
    rng = np.random.default_rng(0)
    features = {
        "dense": tf.constant(rng.normal(size=(count, 2)).astype("float32")),
        "item": tf.constant(rng.integers(0, 20, count)),
    }
    return features, tf.constant((rng.random((count, 1)) < 0.5).astype("float32"))


def test_logits_are_the_mean_of_members_with_seeds_of_their_own():
    features, _ = rows()
    ensemble = Ensemble(CONFIG, 3)
    alone = [DLRM(dataclasses.replace(CONFIG, seed=5 + 100_003 * k))(features) for k in range(3)]
    np.testing.assert_allclose(ensemble(features, training=True), np.hstack(alone), atol=1e-6)
    np.testing.assert_allclose(ensemble(features), np.mean(alone, axis=0), atol=1e-6)
    assert np.std(np.hstack(alone), axis=1).max() > 0.05


def test_fit_trains_every_member_as_it_would_alone():
    features, labels = rows()
    # The mean over the members' losses is a third of each one's, so the rates differ threefold.
    table = dataclasses.replace(TABLE, optimizer=SGD(1.5))
    config = dataclasses.replace(CONFIG, features=(FeatureConfig("item", table),))
    ensemble, alone = Ensemble(config, 3), DLRM(CONFIG)
    for model, rate, copies in ((ensemble, 0.3, 3), (alone, 0.1, 1)):
        model.compile(keras.optimizers.SGD(rate), keras.losses.BinaryCrossentropy(from_logits=True))
        model.fit(
            features,
            tf.tile(labels, (1, copies)),
            batch_size=16,
            epochs=3,
            shuffle=False,
            verbose=0,
        )
    np.testing.assert_allclose(ensemble.members[0](features), alone(features), atol=1e-5)


def test_save_and_load(tmp_path):
    features, _ = rows()
    model = Ensemble(CONFIG, 2)
    expected = model(features)
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        keras.models.load_model(tmp_path / "model.keras")(features), expected
    )


def test_a_checkpoint_holds_all_members(tmp_path):
    features, _ = rows()
    model, other = Ensemble(CONFIG, 2), Ensemble(dataclasses.replace(CONFIG, seed=6), 2)
    path = tf.train.Checkpoint(model=model).write(str(tmp_path / "checkpoint"))
    assert (other(features).numpy() != model(features).numpy()).any()
    tf.train.Checkpoint(model=other).read(path).assert_existing_objects_matched()
    np.testing.assert_array_equal(other(features), model(features))


def test_bad_size():
    with pytest.raises(ValueError, match="size must be a whole number of at least 1, but is 0"):
        Ensemble(CONFIG, 0)
