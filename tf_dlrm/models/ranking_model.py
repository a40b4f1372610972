"""RankingModel: what all models share, from a dict of features to a logit."""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import tensorflow as tf

from tf_dlrm.embeddings.config import FeatureConfig, TableConfig, tables_of
from tf_dlrm.embeddings.optimizers import Optimizer
from tf_dlrm.embeddings.restack import side_by_side
from tf_dlrm.errors import check_whole
from tf_dlrm.keras_api import built, keras, under_policy
from tf_dlrm.keras_internals import policy_of
from tf_dlrm.layers.columns import repeated
from tf_dlrm.layers.embedding_collection import EmbeddingCollection
from tf_dlrm.layers.initial_weights import normal_by_fans
from tf_dlrm.layers.mlp import MLP
from tf_dlrm.models.table_model import TableModel
from tfrecords.tracing import traced_as_written

# The key of the dense features among the inputs.
DENSE = "dense"

Config = TypeVar("Config", bound="RankingConfig")


@dataclasses.dataclass(frozen=True)
class RankingConfig:
    """What every model is made of; each has a config of its own with more fields.

    Attributes:
        dense_features: Number of dense features; 0 for none.
        features: The categorical features and their tables.
        seed: Seed of all first values.
        prediction_clamp: Probabilities stay in [clamp, 1 - clamp]: logits beyond are cut off, and
            have no gradient. In [0, 0.5); 0 for none.
    """

    dense_features: int
    features: tuple[FeatureConfig, ...]
    seed: int = dataclasses.field(default=0, kw_only=True)
    prediction_clamp: float = dataclasses.field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if isinstance(getattr(self, field.name), list):
                object.__setattr__(self, field.name, tuple(getattr(self, field.name)))
        tables_of(self.features)
        if any(feature.name == DENSE for feature in self.features):
            raise ValueError(f"No feature may be named '{DENSE}', the key of the dense features.")
        least = {"dense_features": 0, "cross_layers": 1, "cross_rank": 1, "gmf_dim": 0}
        for name in least.keys() & vars(self):
            check_whole(name, getattr(self, name), least[name])
        self._check_mlps(getattr(self, "bottom_mlp", None), getattr(self, "top_mlp", None))
        if not 0.0 <= self.prediction_clamp < 0.5:
            raise ValueError(
                f"prediction_clamp must be at least 0 and less than 0.5, but is "
                f"{self.prediction_clamp}."
            )

    @property
    def dims(self) -> list[int]:
        """The width of each feature's vector."""
        return [feature.table.dim for feature in self.features]

    def _check_pair(self) -> None:
        names = [feature.name for feature in self.features]
        if len(names) != 2 or self.dense_features:
            raise ValueError(
                f"{type(self).__name__.removesuffix('Config')} reads two categorical features and "
                f"no dense ones, but there are {len(names)} ({', '.join(names)}) and "
                f"{self.dense_features} dense ones."
            )

    def _check_mlps(self, bottom: tuple[int, ...] | None, top: tuple[int, ...] | None) -> None:
        """Checks the MLPs, of a model that has them."""
        if bottom is not None and bool(self.dense_features) != bool(bottom):
            raise ValueError(
                "bottom_mlp must have layers if and only if there are dense features, but "
                f"dense_features is {self.dense_features} and bottom_mlp is {bottom}."
            )
        if top is not None and (not top or top[-1] != 1):
            raise ValueError(f"top_mlp must end in 1, the logit, but is {top}.")

    def to_json(self) -> str:
        """Returns JSON that `from_json` takes back."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls: type[Config], text: str) -> Config:
        """Returns the config that `to_json` wrote."""
        return cls.from_dict(json.loads(text))

    def to_dict(self) -> dict[str, Any]:
        """Returns a dict that `json.dumps` accepts and `from_dict` takes back."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
        values["features"] = [feature.to_dict() for feature in self.features]
        return values

    @classmethod
    def from_dict(cls: type[Config], values: Mapping[str, Any]) -> Config:
        """Returns the config that `to_dict` described."""
        features = tuple(FeatureConfig.from_dict(feature) for feature in values["features"])
        return cls(**{**values, "features": features})


class RankingModel(TableModel):
    """Embeds the categorical features and makes one logit of them and the dense features.

    All weights exist once the model is constructed. The tables are trained by their own optimizers
    (see `EmbeddingCollection`), all other weights by the one that `compile` is given.

    Models are subclasses that set `config_class` and define `_build_layers` and `_logits`, and set
    `first_order_columns` to 1 if the first column of a table is not part of the vectors.

    Args:
        config: What the model is made of.
        plan: Where each table is, under a strategy of several replicas; see `EmbeddingCollection`.
        communication_dtype: "float32" or "bfloat16"; see `EmbeddingCollection`.

    Call arguments:
        inputs: `{"dense": floats [batch, dense_features], feature: ids, ...}`, where ids are
            anything that `EmbeddingCollection` takes, or a tuple of them and of their weights; no
            "dense" where `dense_features` is 0.

    Returns:
        Logits [batch, 1]. The loss is sigmoid cross-entropy from logits.

    Raises:
        ValueError: If the config is of another model, or the inputs do not fit it.
    """

    config_class: type[RankingConfig]
    first_order_columns = 0
    # Whether `_logits` takes dense features or vectors of one row beside others of many.
    _shares_rows = False

    def __init__(
        self,
        config: RankingConfig | Mapping[str, Any],
        plan: Any = None,
        communication_dtype: str = "float32",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if isinstance(config, Mapping):
            config = self.config_class.from_dict(config)
        if type(config) is not self.config_class:
            raise ValueError(
                f"config of {type(self).__name__} must be a {self.config_class.__name__}, but is a "
                f"{type(config).__name__}."
            )
        # Kept as JSON, because both Kerases take apart what they find in attributes.
        self._config_json = config.to_json()
        self._dense_features = config.dense_features
        clamp = config.prediction_clamp
        self._most = math.log((1.0 - clamp) / clamp) if clamp else None
        with under_policy(policy_of(self)):
            self.embeddings = EmbeddingCollection(
                config.features, config.seed, plan, communication_dtype, name="embeddings"
            )
            self.embeddings.build()
            self._build_layers(config)
        self.built = True

    def _build_layers(self, config: Any) -> None:
        """Makes and builds all layers but the embeddings."""
        raise NotImplementedError

    def _logits(
        self, dense: tf.Tensor | None, vectors: list[tf.Tensor], training: bool | None
    ) -> tf.Tensor:
        """Returns logits [batch, 1].

        Args:
            dense: Floats [batch, dense_features], or None where there are none.
            vectors: One [batch, dim] a feature, in the order of the config.
            training: Whether dropout drops.
        """
        raise NotImplementedError

    @property
    def config(self) -> Any:
        """What the model is made of, a `config_class`."""
        return self.config_class.from_json(self._config_json)

    @property
    def collections(self) -> list[EmbeddingCollection]:
        """The tables, in a list, as every model of this package has them."""
        return [self.embeddings]

    def checkpoint_key(self, collection: int, table: str, slot: str = "rows") -> str:
        """See `TableModel.checkpoint_key`."""
        del collection
        return f"embeddings/{self.embeddings.checkpoint_key(table, slot)}"

    @traced_as_written
    def call(self, inputs: Mapping[str, Any], training: bool | None = None) -> tf.Tensor:
        """Returns logits [batch, 1]; see the class."""
        self._remember(inputs)
        ids = dict(inputs)
        dense = None
        if self._dense_features:
            if DENSE not in ids:
                raise ValueError(
                    f"The inputs of {self.name} have no '{DENSE}', the dense features, only "
                    f"{sorted(ids)}."
                )
            dense = ids.pop(DENSE)
        weights = {}
        for name, value in ids.items():
            if isinstance(value, tuple):
                if len(value) != 2:
                    raise ValueError(
                        f"Feature '{name}' of {self.name} must be ids, or a tuple of ids and their "
                        f"weights, but is a tuple of {len(value)}."
                    )
                ids[name], weights[name] = value
        vectors = self.embeddings(ids, weights or None, training=training)
        return self.logits_of(dense, vectors, training)

    def logits_of(
        self,
        dense: tf.Tensor | None,
        vectors: Mapping[str, tf.Tensor],
        training: bool | None = None,
    ) -> tf.Tensor:
        """Returns logits [batch, 1] of what `embeddings` returned: all of the model above it.

        Args:
            dense: Floats [batch, dense_features], or None where there are none.
            vectors: For each feature [batch, dim].
            training: Whether dropout drops.

        What is the same for all rows, as a user's are for all candidates, may have one row: [1, n],
        statically.
        """
        if dense is not None:
            dense = tf.cast(dense, self.compute_dtype)
            if len(dense.shape) != 2 or dense.shape[1] != self._dense_features:
                raise ValueError(
                    f"'{DENSE}' of {self.name} must have the shape [batch, "
                    f"{self._dense_features}], but has {tuple(dense.shape)}."
                )
        in_order = [vectors[feature.name] for feature in self.embeddings.features]
        if not self._shares_rows:
            tensors = repeated([*([] if dense is None else [dense]), *in_order])
            dense, in_order = (None if dense is None else tensors[0]), tensors[-len(in_order) :]
        # The loss needs all digits, whatever the layers compute in.
        logits = tf.cast(self._logits(dense, in_order, training), tf.float32)
        if self._most is not None:
            logits = tf.clip_by_value(logits, -self._most, self._most)
        return logits

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that make an equal model."""
        return {**super().get_config(), "config": json.loads(self._config_json)}


def features_of(
    columns: Iterable[Any], dim: int, optimizer: Optimizer, **options: Any
) -> tuple[FeatureConfig, ...]:
    """Returns a feature with a table of its own for each categorical column of a data set.

    Args:
        columns: The columns, each with a name, a vocabulary_size and an out_of_vocabulary row.
        dim: Columns of all tables.
        optimizer: The optimizer of all tables.
        **options: More fields of `TableConfig`: one value for all, or a list of one for each.
    """
    features = []
    for k, column in enumerate(columns):
        own = {name: v[k] if isinstance(v, list) else v for name, v in options.items()}
        table = TableConfig(
            column.name,
            column.vocabulary_size,
            dim,
            optimizer=optimizer,
            out_of_vocabulary=column.out_of_vocabulary,
            **own,
        )
        features.append(FeatureConfig(column.name, table))
    return tuple(features)


def copy_dense_weights(source: Any, target: Any) -> None:
    """Copies all weights but the tables to a model of equal layers, whatever tables it has."""
    both = zip(_dense_weights(source), _dense_weights(target), strict=True)
    for giver, taker in both:
        taker.assign(giver.numpy())


def _dense_weights(model: Any) -> list[Any]:
    tables = {id(w) for collection in model.collections for w in collection.table_weights}
    return [weight for weight in model.weights if id(weight) not in tables]


def layer_seed(config: RankingConfig, layer: int) -> int:
    """Returns a seed for one of a model's layers, numbered from 0."""
    return 2 * config.seed + 1000 * layer


def built_bottom_mlp(config: Any) -> MLP | None:
    """Returns the MLP on the dense features, ReLU throughout; None where there are none."""
    if not config.bottom_mlp:
        return None
    mlp = MLP(
        config.bottom_mlp, final_activation="relu", seed=layer_seed(config, 0), name="bottom_mlp"
    )
    return built(mlp, (None, config.dense_features))


def built_top_mlp(config: Any, width: int) -> MLP:
    """Returns the MLP from [batch, width] to a logit [batch, 1]."""
    mlp = MLP(config.top_mlp, dropout=config.dropout, seed=layer_seed(config, 1), name="top_mlp")
    return built(mlp, (None, width))


def built_logit_layer(width: int, seed: int, name: str) -> Any:
    """Returns a layer from [batch, width] to a logit [batch, 1] that is added to another one.

    Together with the last layer of an MLP, which has the bias, it is what papers describe as one
    layer on top of both.
    """
    layer = keras.layers.Dense(
        1, use_bias=False, kernel_initializer=normal_by_fans(seed), name=name
    )
    return built(layer, (None, width))


def flatten(dense: tf.Tensor | None, vectors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns the dense features, if any, and all vectors side by side, [batch, width]."""
    return side_by_side([*([] if dense is None else [dense]), *vectors])
