"""DLRMDCNv2: MLPerf's DLRM, whose interaction is a cross network of low rank."""

import dataclasses

import tensorflow as tf

from tf_dlrm.keras_api import built, keras
from tf_dlrm.layers.low_rank_cross import LowRankCross
from tf_dlrm.models.ranking_model import (
    RankingConfig,
    RankingModel,
    built_bottom_mlp,
    built_top_mlp,
    flatten,
    layer_seed,
)


@dataclasses.dataclass(frozen=True)
class DLRMDCNv2Config(RankingConfig):
    """What a DLRM-DCNv2 is made of.

    Attributes, beside those of `RankingConfig`:
        dense_features: Number of dense features; 0 for none, and then no bottom MLP.
        features: The categorical features and their tables, of any dims.
        bottom_mlp: Outputs of the bottom MLP's layers, the input not included.
        top_mlp: Outputs of the top MLP's layers, the input not included; the last is 1.
        cross_layers: Number of cross layers.
        cross_rank: Rank of their matrices.
        dropout: Rate of dropout on the top MLP's hidden layers while training.
    """

    bottom_mlp: tuple[int, ...]
    top_mlp: tuple[int, ...]
    cross_layers: int = 3
    cross_rank: int = 512
    dropout: float = 0.0


@keras.saving.register_keras_serializable(package="tf_dlrm")
class DLRMDCNv2(RankingModel):
    """Bottom MLP and embeddings side by side, a cross network of low rank, top MLP, one logit.

    Arguments and inputs are those of `RankingModel`, with a `DLRMDCNv2Config`.

    Example:
        >>> table = TableConfig("item", 1000, 8, optimizer=SGD(0.1))
        >>> features = (FeatureConfig("item", table),)
        >>> model = DLRMDCNv2(DLRMDCNv2Config(2, features, (16, 8), (16, 1), cross_rank=4))
        >>> model({"dense": tf.ones((3, 2)), "item": tf.constant([1, 2, 3])}).shape
        TensorShape([3, 1])

    References:
        MLCommons training, recommendation_v2; Wang et al., DCN V2, arXiv 2008.13535, the stacked
        structure.
    """

    config_class = DLRMDCNv2Config

    def _build_layers(self, config: DLRMDCNv2Config) -> None:
        self.bottom_mlp = built_bottom_mlp(config)
        width = sum((*config.bottom_mlp[-1:], *config.dims))
        self._cross_layers = config.cross_layers
        for k in range(config.cross_layers):
            seed = layer_seed(config, 2 + k)
            cross = LowRankCross(config.cross_rank, seed=seed, name=f"cross_{k}")
            built(cross, (None, width))
            setattr(self, f"cross_{k}", cross)
        self.top_mlp = built_top_mlp(config, width)

    def _logits(
        self, dense: tf.Tensor | None, vectors: list[tf.Tensor], training: bool | None
    ) -> tf.Tensor:
        if self.bottom_mlp is not None:
            dense = self.bottom_mlp(dense, training=training)
        x0 = x = flatten(dense, vectors)
        for k in range(self._cross_layers):
            x = getattr(self, f"cross_{k}")(x0, x)
        return self.top_mlp(x, training=training)
