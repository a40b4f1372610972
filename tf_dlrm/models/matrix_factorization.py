"""MatrixFactorization: the dot product of a user's and an item's vector, with biases."""

import dataclasses

from tf_dlrm.keras_api import keras
from tf_dlrm.models.factorization_machine import FM
from tf_dlrm.models.field_model import FieldConfig


@dataclasses.dataclass(frozen=True)
class MatrixFactorizationConfig(FieldConfig):
    """What a matrix factorization is made of.

    Attributes, beside those of `FieldConfig`:
        dense_features: 0.
        features: The user and the item, whose tables have one dim: the first column is the bias,
            the others are the vector.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_pair()


@keras.saving.register_keras_serializable(package="tf_dlrm")
class MatrixFactorization(FM):
    """p_u . q_i + b_u + b_i + b: a factorization machine of two fields.

    Arguments and inputs are those of `RankingModel`, with a `MatrixFactorizationConfig`.

    Example:
        >>> users, items = TableConfig("users", 1000, 1 + 8), TableConfig("items", 500, 1 + 8)
        >>> features = FeatureConfig("user", users), FeatureConfig("item", items)
        >>> model = MatrixFactorization(MatrixFactorizationConfig(0, features))
        >>> model({"user": tf.constant([1, 2, 3]), "item": tf.constant([3, 2, 1])}).shape
        TensorShape([3, 1])

    References:
        Koren et al., Matrix Factorization Techniques for Recommender Systems, Computer 42(8), 2009,
        equation 4. Rendle, Factorization Machines, ICDM 2010, section V.A.
    """

    config_class = MatrixFactorizationConfig
