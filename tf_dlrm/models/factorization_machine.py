"""FM: the factorization machine of Rendle."""

from typing import Any

import tensorflow as tf

from tf_dlrm.keras_api import keras
from tf_dlrm.layers.factorization_machine import FactorizationMachine
from tf_dlrm.models.field_model import FieldConfig, FieldModel


class FMConfig(FieldConfig):
    """What a factorization machine is made of, see `FieldConfig`."""


@keras.saving.register_keras_serializable(package="tf_dlrm")
class FM(FieldModel):
    """A bias, a weight for each field, and the dot product of each pair of the fields' vectors.

    Arguments and inputs are those of `RankingModel`, with an `FMConfig`.

    Example:
        >>> table = TableConfig("item", 1000, 1 + 8, optimizer=SGD(0.1))
        >>> model = FM(FMConfig(2, (FeatureConfig("item", table),)))
        >>> model({"dense": tf.ones((3, 2)), "item": tf.constant([1, 2, 3])}).shape
        TensorShape([3, 1])

    References:
        Rendle, Factorization Machines, ICDM 2010, section III, equation 1.
    """

    config_class: type[FieldConfig] = FMConfig

    def _build_interactions(self, config: Any) -> None:
        del config
        self.second_order = FactorizationMachine(name="second_order")
        self.bias = self.add_weight(name="bias", shape=(1,), initializer="zeros")

    def _interactions(self, vectors: tf.Tensor, training: bool | None) -> tf.Tensor:
        del training
        return self.second_order(vectors) + self.bias
