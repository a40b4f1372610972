"""TFRS's layers and models on this package's embeddings, in Keras 2, which TFRS needs."""

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.embeddings import Adagrad, FeatureConfig, TableConfig
from tf_dlrm.keras_api import keras, uses_legacy_keras
from tf_dlrm.layers import Cross, DotInteraction, EmbeddingCollection, LowRankCross

if not uses_legacy_keras():
    pytest.skip("TFRS needs Keras 2", allow_module_level=True)
tfrs = pytest.importorskip("tensorflow_recommenders")
interaction = tfrs.layers.feature_interaction


class CrossOfAll(keras.layers.Layer):
    """TFRS's Cross on all vectors; Ranking squeezes their static shapes away."""

    def __init__(self):
        super().__init__()
        self.cross = interaction.Cross()

    def call(self, vectors):
        return self.cross(tf.concat([tf.ensure_shape(v, [None, 4]) for v in vectors], 1))


def collection():
    names = ("user", "item", "shop")
    return EmbeddingCollection(
        [FeatureConfig(n, TableConfig(n, 20, 4, optimizer=Adagrad(0.2))) for n in names]
    )


def rows(count=64):
    rng = np.random.default_rng(0)
    return {name: tf.constant(rng.integers(0, 20, count)) for name in ("user", "item", "shop")}


def test_dot_interactions_are_equal():
    vectors = list(collection()(rows()).values())
    for with_itself in (False, True):
        ours = DotInteraction(with_itself)(vectors)
        theirs = interaction.DotInteraction(self_interaction=with_itself)(vectors)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rank", [None, 3])
def test_crosses_are_equal(rank):
    x0 = tf.concat(list(collection()(rows()).values()), 1)
    x = tf.random.stateless_normal(x0.shape, (1, 2))
    ours = LowRankCross(rank) if rank else Cross()
    theirs = interaction.Cross(projection_dim=rank)
    ours(x0, x), theirs(x0, x)
    assert len(ours.get_weights()) == len(theirs.get_weights())
    values = [np.random.default_rng(k).normal(size=w.shape) for k, w in enumerate(ours.weights)]
    by_shape = dict(zip([w.shape for w in ours.get_weights()], values, strict=True))
    ours.set_weights(values)
    theirs.set_weights([by_shape[w.shape] for w in theirs.get_weights()])
    np.testing.assert_allclose(ours(x0, x), theirs(x0, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        interaction.DotInteraction,
        lambda: CrossOfAll(),
    ],
    ids=["dlrm", "dcn"],
)
def test_a_ranking_model_trains_the_tables(make):
    layer = collection()
    model = tfrs.experimental.models.Ranking(
        embedding_layer=layer,
        bottom_stack=tfrs.layers.blocks.MLP([8, 4], final_activation="relu"),
        feature_interaction=make(),
        top_stack=tfrs.layers.blocks.MLP([16, 1], final_activation="sigmoid"),
    )
    model.compile(keras.optimizers.Adam(0.01))
    ids = rows(512)
    labels = tf.cast((ids["item"] + ids["shop"]) % 2, tf.float32)
    dense = tf.random.stateless_normal((512, 3), (3, 4))
    batch = ({"dense_features": dense, "sparse_features": ids}, labels)
    layer.build()
    before = {name: layer.tables[name].read_rows().numpy() for name in layer.tables}
    data = tf.data.Dataset.from_tensor_slices(batch).batch(64)
    history = model.fit(data, epochs=15, verbose=0).history
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    for name, values in before.items():
        assert np.abs(layer.tables[name].read_rows() - values).max() > 0.05
