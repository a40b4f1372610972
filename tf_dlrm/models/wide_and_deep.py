"""WideAndDeep: a linear model of the ids and an MLP, trained together."""

import dataclasses

import tensorflow as tf

from tf_dlrm.keras_api import keras
from tf_dlrm.models.ranking_model import RankingConfig, RankingModel, built_top_mlp, flatten


@dataclasses.dataclass(frozen=True)
class WideAndDeepConfig(RankingConfig):
    """What a wide and deep model is made of.

    Attributes, beside those of `RankingConfig`:
        features: The categorical features and their tables. The first column is the weight of the
            wide part, the others are the vector for the deep part; a table of dim 1, such as that
            of crossed features, is for the wide part alone.
        top_mlp: Outputs of the deep part's layers; the last is 1.
        dropout: Rate of dropout on the deep part's hidden layers while training.
    """

    top_mlp: tuple[int, ...]
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.deep_width:
            raise ValueError(
                "The deep part has no input: there are no dense features, and all tables have the "
                "dim 1, that of the wide part."
            )

    @property
    def deep_width(self) -> int:
        """Number of inputs of the deep part."""
        return self.dense_features + sum(self.dims) - len(self.dims)


@keras.saving.register_keras_serializable(package="tf_dlrm")
class WideAndDeep(RankingModel):
    """The sum of the ids' weights, plus an MLP on dense features and vectors.

    Arguments and inputs are those of `RankingModel`, with a `WideAndDeepConfig`. Each table has its
    optimizer, so a feature can come twice under two names, once for each part: the paper trains
    the wide one by FTRL.

    Example:
        >>> table = TableConfig("item", 1000, 1 + 8, optimizer=Adagrad(0.1))
        >>> crosses = TableConfig("crosses", 5000, 1, optimizer=FTRL(0.1))
        >>> features = FeatureConfig("item", table), FeatureConfig("item_and_city", crosses)
        >>> model = WideAndDeep(WideAndDeepConfig(2, features, top_mlp=(16, 1)))
        >>> ids = {"item": tf.constant([1, 2, 3]), "item_and_city": tf.constant([7, 8, 9])}
        >>> model({"dense": tf.ones((3, 2)), **ids}).shape
        TensorShape([3, 1])

    References:
        Cheng et al., Wide & Deep Learning for Recommender Systems, arXiv 1606.07792, section 3.
    """

    config_class = WideAndDeepConfig
    first_order_columns = 1

    def _build_layers(self, config: WideAndDeepConfig) -> None:
        self.top_mlp = built_top_mlp(config, config.deep_width)

    def _logits(
        self, dense: tf.Tensor | None, vectors: list[tf.Tensor], training: bool | None
    ) -> tf.Tensor:
        wide = tf.add_n([vector[:, :1] for vector in vectors])
        deep = flatten(dense, [vector[:, 1:] for vector in vectors])
        return wide + self.top_mlp(deep, training=training)
