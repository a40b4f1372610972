"""DCN: the deep and cross network of Wang et al."""

import dataclasses

import tensorflow as tf

from tf_dlrm.keras_api import built, keras
from tf_dlrm.layers.vector_cross import VectorCross
from tf_dlrm.models.ranking_model import (
    RankingConfig,
    RankingModel,
    built_logit_layer,
    built_top_mlp,
    flatten,
    layer_seed,
)


@dataclasses.dataclass(frozen=True)
class DCNConfig(RankingConfig):
    """What a deep and cross network is made of.

    Attributes, beside those of `RankingConfig`:
        features: The categorical features and their tables, of any dims.
        cross_layers: Number of cross layers.
        top_mlp: Outputs of the deep part's layers; the last is 1.
        dropout: Rate of dropout on the deep part's hidden layers while training.
    """

    cross_layers: int = 6
    top_mlp: tuple[int, ...] = (512, 256, 1)
    dropout: float = 0.0


@keras.saving.register_keras_serializable(package="tf_dlrm")
class DCN(RankingModel):
    """A cross network and an MLP side by side on dense features and vectors.

    Arguments and inputs are those of `RankingModel`, with a `DCNConfig`, whose default is what DLRM
    is compared with in its paper. Batch normalisation, which this paper uses, is left out.

    Example:
        >>> table = TableConfig("item", 1000, 8, optimizer=SGD(0.1))
        >>> model = DCN(DCNConfig(2, (FeatureConfig("item", table),)))
        >>> model({"dense": tf.ones((3, 2)), "item": tf.constant([1, 2, 3])}).shape
        TensorShape([3, 1])

    References:
        Wang et al., Deep & Cross Network for Ad Click Predictions, arXiv 1708.05123, section 2.
        Naumov et al., arXiv 1906.00091, section 5.2, figure 5.
    """

    config_class = DCNConfig

    def _build_layers(self, config: DCNConfig) -> None:
        width = config.dense_features + sum(config.dims)
        self._cross_layers = config.cross_layers
        for k in range(config.cross_layers):
            cross = VectorCross(seed=layer_seed(config, 2 + k), name=f"cross_{k}")
            built(cross, (None, width))
            setattr(self, f"cross_{k}", cross)
        self.cross_logit = built_logit_layer(width, layer_seed(config, 0), "cross_logit")
        self.top_mlp = built_top_mlp(config, width)

    def _logits(
        self, dense: tf.Tensor | None, vectors: list[tf.Tensor], training: bool | None
    ) -> tf.Tensor:
        x0 = x = flatten(dense, vectors)
        for k in range(self._cross_layers):
            x = getattr(self, f"cross_{k}")(x0, x)
        return self.cross_logit(x) + self.top_mlp(x0, training=training)
