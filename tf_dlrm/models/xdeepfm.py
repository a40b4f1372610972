"""XDeepFM: a compressed interaction network and an MLP on the same vectors."""

import dataclasses
from typing import Any

import tensorflow as tf

from tf_dlrm.keras_api import built, keras
from tf_dlrm.layers.compressed_interaction import CompressedInteraction
from tf_dlrm.models.field_model import FieldConfig, FieldModel
from tf_dlrm.models.ranking_model import built_logit_layer, built_top_mlp, layer_seed


@dataclasses.dataclass(frozen=True)
class XDeepFMConfig(FieldConfig):
    """What an xDeepFM is made of.

    Attributes, beside those of `FieldConfig`:
        top_mlp: Outputs of the deep part's layers; the last is 1.
        interaction_units: Number of vectors of each layer of the compressed interaction.
        dropout: Rate of dropout on the deep part's hidden layers while training.
    """

    top_mlp: tuple[int, ...]
    interaction_units: tuple[int, ...] = (200, 200, 200)
    dropout: float = 0.0


@keras.saving.register_keras_serializable(package="tf_dlrm")
class XDeepFM(FieldModel):
    """A first-order term, a compressed interaction network, and an MLP on the same vectors.

    Arguments and inputs are those of `RankingModel`, with an `XDeepFMConfig`.

    Example:
        >>> table = TableConfig("item", 1000, 1 + 8, optimizer=SGD(0.1))
        >>> features = (FeatureConfig("item", table),)
        >>> model = XDeepFM(XDeepFMConfig(2, features, top_mlp=(16, 1), interaction_units=(4, 4)))
        >>> model({"dense": tf.ones((3, 2)), "item": tf.constant([1, 2, 3])}).shape
        TensorShape([3, 1])

    References:
        Lian et al., xDeepFM, arXiv 1803.05170, section 3.3, equation 9.
    """

    config_class = XDeepFMConfig

    def _build_interactions(self, config: Any) -> None:
        self.interaction = CompressedInteraction(
            config.interaction_units, seed=layer_seed(config, 2), name="interaction"
        )
        built(self.interaction, (None, config.fields, config.dim))
        self.interaction_logit = built_logit_layer(
            sum(config.interaction_units), layer_seed(config, 3), "interaction_logit"
        )
        self.top_mlp = built_top_mlp(config, config.fields * config.dim)

    def _interactions(self, vectors: tf.Tensor, training: bool | None) -> tf.Tensor:
        flat = tf.reshape(vectors, [-1, vectors.shape[1] * vectors.shape[2]])
        logits = self.interaction_logit(self.interaction(vectors))
        return logits + self.top_mlp(flat, training=training)
