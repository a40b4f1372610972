"""NeuMF: neural collaborative filtering, and its parts GMF and MLP."""

import dataclasses

import tensorflow as tf

from tf_dlrm.keras_api import keras
from tf_dlrm.models.ranking_model import (
    RankingConfig,
    RankingModel,
    built_logit_layer,
    built_top_mlp,
    flatten,
    layer_seed,
)


@dataclasses.dataclass(frozen=True)
class NeuMFConfig(RankingConfig):
    """What a neural collaborative filtering model is made of.

    Attributes, beside those of `RankingConfig`:
        dense_features: 0.
        features: The user and the item. The first `gmf_dim` columns of their tables are the vectors
            of the generalised matrix factorization, the others those of the MLP.
        gmf_dim: Columns for the GMF: all of them for GMF alone, 0 for the MLP alone.
        top_mlp: Outputs of the MLP's layers; the last is 1. Empty for GMF alone.
        dropout: Rate of dropout on the MLP's hidden layers while training; the paper has none.
    """

    gmf_dim: int
    top_mlp: tuple[int, ...]
    dropout: float = 0.0

    def _check_mlps(self, bottom: tuple[int, ...] | None, top: tuple[int, ...] | None) -> None:
        self._check_pair()
        if self.gmf_dim > min(self.dims):
            raise ValueError(
                f"gmf_dim must be no more than the tables' dims, {self.dims}, but is "
                f"{self.gmf_dim}."
            )
        if self.mlp_width:
            super()._check_mlps(bottom, top)
        elif top:
            raise ValueError(
                f"top_mlp must be empty where gmf_dim, {self.gmf_dim}, leaves no columns for it, "
                f"but is {top}."
            )

    @property
    def mlp_width(self) -> int:
        """Number of inputs of the MLP."""
        return sum(self.dims) - 2 * self.gmf_dim


@keras.saving.register_keras_serializable(package="tf_dlrm")
class NeuMF(RankingModel):
    """h . (p_u * q_i), the GMF, plus an MLP on vectors of its own.

    Arguments and inputs are those of `RankingModel`, with a `NeuMFConfig`. Both parts are trained
    together from the start; the paper also trains them alone first.

    Example:
        >>> users, items = TableConfig("users", 1000, 8 + 16), TableConfig("items", 500, 8 + 16)
        >>> features = FeatureConfig("user", users), FeatureConfig("item", items)
        >>> model = NeuMF(NeuMFConfig(0, features, gmf_dim=8, top_mlp=(16, 8, 1)))
        >>> model({"user": tf.constant([1, 2, 3]), "item": tf.constant([3, 2, 1])}).shape
        TensorShape([3, 1])

    References:
        He et al., Neural Collaborative Filtering, arXiv 1708.05031, section 3.2 to 3.4, equation
        12.
    """

    config_class = NeuMFConfig

    def _build_layers(self, config: NeuMFConfig) -> None:
        self._gmf_dim = config.gmf_dim
        self.gmf = self.top_mlp = None
        if config.gmf_dim:
            self.gmf = built_logit_layer(config.gmf_dim, layer_seed(config, 0), "gmf")
        if config.mlp_width:
            self.top_mlp = built_top_mlp(config, config.mlp_width)

    def _logits(
        self, dense: tf.Tensor | None, vectors: list[tf.Tensor], training: bool | None
    ) -> tf.Tensor:
        user, item = vectors
        logits = []
        if self.gmf is not None:
            logits.append(self.gmf(user[:, : self._gmf_dim] * item[:, : self._gmf_dim]))
        if self.top_mlp is not None:
            rest = flatten(None, [user[:, self._gmf_dim :], item[:, self._gmf_dim :]])
            logits.append(self.top_mlp(rest, training=training))
        return tf.add_n(logits)
