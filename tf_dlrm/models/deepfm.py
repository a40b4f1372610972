"""DeepFM: a factorization machine and an MLP on the same vectors."""

import dataclasses
from typing import Any

import tensorflow as tf

from tf_dlrm.keras_api import keras
from tf_dlrm.layers.factorization_machine import FactorizationMachine
from tf_dlrm.models.field_model import FieldConfig, FieldModel
from tf_dlrm.models.ranking_model import built_top_mlp


@dataclasses.dataclass(frozen=True)
class DeepFMConfig(FieldConfig):
    """What a DeepFM is made of.

    Attributes, beside those of `FieldConfig`:
        top_mlp: Outputs of the deep part's layers; the last is 1.
        dropout: Rate of dropout on the deep part's hidden layers while training.
    """

    top_mlp: tuple[int, ...]
    dropout: float = 0.0


@keras.saving.register_keras_serializable(package="tf_dlrm")
class DeepFM(FieldModel):
    """A factorization machine, plus an MLP on the vectors side by side.

    Arguments and inputs are those of `RankingModel`, with a `DeepFMConfig`.

    Example:
        >>> table = TableConfig("item", 1000, 1 + 8, optimizer=SGD(0.1))
        >>> model = DeepFM(DeepFMConfig(2, (FeatureConfig("item", table),), top_mlp=(16, 1)))
        >>> model({"dense": tf.ones((3, 2)), "item": tf.constant([1, 2, 3])}).shape
        TensorShape([3, 1])

    References:
        Guo et al., DeepFM, arXiv 1703.04247, section 2.
    """

    config_class = DeepFMConfig

    def _build_interactions(self, config: Any) -> None:
        self.second_order = FactorizationMachine(name="second_order")
        self.top_mlp = built_top_mlp(config, config.fields * config.dim)

    def _interactions(self, vectors: tf.Tensor, training: bool | None) -> tf.Tensor:
        flat = tf.reshape(vectors, [-1, vectors.shape[1] * vectors.shape[2]])
        return self.second_order(vectors) + self.top_mlp(flat, training=training)
