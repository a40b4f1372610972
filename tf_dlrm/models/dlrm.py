"""DLRM: the deep learning recommendation model of Naumov et al."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tf_dlrm.embeddings.config import FeatureConfig, tables_of
from tf_dlrm.embeddings.plan import Plan
from tf_dlrm.keras_api import keras
from tf_dlrm.layers.dot_interaction import DotInteraction
from tf_dlrm.layers.embedding_collection import EmbeddingCollection
from tf_dlrm.layers.mlp import MLP

INTERACTIONS = ("dot", "concat")
# The key of the dense features among the inputs.
DENSE = "dense"


@dataclasses.dataclass(frozen=True)
class DLRMConfig:
    """What a DLRM is made of.

    Attributes:
        dense_features: Number of dense features; 0 for none, and then no bottom MLP.
        features: The categorical features and their tables.
        bottom_mlp: Outputs of the bottom MLP's layers, the input not included.
        top_mlp: Outputs of the top MLP's layers, the input not included; the last is 1.
        interaction: "dot" (products of all pairs, after the bottom MLP's output) or "concat".
        self_interaction: Whether "dot" includes each vector's product with itself.
        dropout: Rate of dropout on the top MLP's hidden layers while training; the paper has none.
        seed: Seed of all first values.
    """

    dense_features: int
    features: tuple[FeatureConfig, ...]
    bottom_mlp: tuple[int, ...]
    top_mlp: tuple[int, ...]
    interaction: str = "dot"
    self_interaction: bool = False
    dropout: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for field in ("features", "bottom_mlp", "top_mlp"):
            object.__setattr__(self, field, tuple(getattr(self, field)))
        tables_of(self.features)
        if any(feature.name == DENSE for feature in self.features):
            raise ValueError(f"No feature may be named '{DENSE}', the key of the dense features.")
        count = self.dense_features
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise ValueError(
                f"dense_features must be a whole number of at least 0, but is {count!r}."
            )
        if bool(self.dense_features) != bool(self.bottom_mlp):
            raise ValueError(
                "bottom_mlp must have layers if and only if there are dense features, but "
                f"dense_features is {self.dense_features} and bottom_mlp is {self.bottom_mlp}."
            )
        if not self.top_mlp or self.top_mlp[-1] != 1:
            raise ValueError(f"top_mlp must end in 1, the logit, but is {self.top_mlp}.")
        if self.interaction not in INTERACTIONS:
            raise ValueError(
                f"interaction must be one of {INTERACTIONS}, but is {self.interaction!r}."
            )
        if self.interaction == "dot":
            self._check_dot()
        elif self.self_interaction:
            raise ValueError("self_interaction is for interaction='dot', but that is 'concat'.")

    def _check_dot(self) -> None:
        dims = {feature.name: feature.table.dim for feature in self.features}
        if len(set(dims.values())) > 1:
            raise ValueError(
                f"interaction='dot' needs tables of one dim, but the features have {dims}."
            )
        dim = self.features[0].table.dim
        if self.bottom_mlp and self.bottom_mlp[-1] != dim:
            raise ValueError(
                f"bottom_mlp must end at the embedding dim, {dim}, for interaction='dot', but is "
                f"{self.bottom_mlp}."
            )
        if len(self.features) + bool(self.bottom_mlp) < 2 and not self.self_interaction:
            raise ValueError("interaction='dot' needs two vectors or more, but there is only one.")

    def to_json(self) -> str:
        """Returns JSON that `from_json` takes back."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls, text: str) -> "DLRMConfig":
        """Returns the config that `to_json` wrote."""
        return cls.from_dict(json.loads(text))

    def to_dict(self) -> dict[str, Any]:
        """Returns a dict that `json.dumps` accepts and `from_dict` takes back."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values["features"] = [feature.to_dict() for feature in self.features]
        values["bottom_mlp"] = list(self.bottom_mlp)
        values["top_mlp"] = list(self.top_mlp)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "DLRMConfig":
        """Returns the config that `to_dict` described."""
        features = tuple(FeatureConfig.from_dict(feature) for feature in values["features"])
        return cls(**{**values, "features": features})


@keras.saving.register_keras_serializable(package="tf_dlrm")
class DLRM(keras.Model):
    """Bottom MLP and embeddings, their interaction, top MLP, one logit.

    All weights exist once the model is constructed. The tables are trained by their own optimizers
    (see `EmbeddingCollection`), the MLPs by the one that `compile` is given.

    Args:
        config: What the model is made of.
        plan: Where each table is, under a strategy of several replicas; see `EmbeddingCollection`.
        communication_dtype: "float32" or "bfloat16"; see `EmbeddingCollection`.

    Call arguments:
        inputs: `{"dense": floats [batch, dense_features], feature: ids, ...}`, where ids are
            anything that `EmbeddingCollection` takes; no "dense" where `dense_features` is 0.

    Returns:
        Logits [batch, 1]. The loss is sigmoid cross-entropy from logits.

    Example:
        >>> table = TableConfig("item", 1000, 8, optimizer=SGD(0.1))
        >>> model = DLRM(DLRMConfig(2, (FeatureConfig("item", table),), (16, 8), (16, 1)))
        >>> model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
        >>> model({"dense": tf.ones((3, 2)), "item": tf.constant([1, 2, 3])}).shape
        TensorShape([3, 1])

    References:
        Naumov et al., Deep Learning Recommendation Model for Personalization and Recommendation
        Systems, arXiv 1906.00091, section 2.
    """

    def __init__(
        self,
        config: DLRMConfig | Mapping[str, Any],
        plan: Plan | None = None,
        communication_dtype: str = "float32",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if isinstance(config, Mapping):
            config = DLRMConfig.from_dict(config)
        # Kept as JSON, because both Kerases take apart what they find in attributes.
        self._config_json = config.to_json()
        self.embeddings = EmbeddingCollection(
            config.features, config.seed, plan, communication_dtype, name="embeddings"
        )
        self.embeddings.build()
        widths = [feature.table.dim for feature in config.features]
        self.bottom_mlp = None
        if config.bottom_mlp:
            self.bottom_mlp = MLP(
                config.bottom_mlp, final_activation="relu", seed=2 * config.seed, name="bottom_mlp"
            )
            self.bottom_mlp.build((None, config.dense_features))
            widths = [config.bottom_mlp[-1], *widths]
        self.interaction = None
        width = sum(widths)
        if config.interaction == "dot":
            self.interaction = DotInteraction(config.self_interaction, name="interaction")
            shapes = [(None, size) for size in widths]
            self.interaction.build(shapes)
            width = self.interaction.compute_output_shape(shapes)[1]
            width += widths[0] if config.bottom_mlp else 0
        self.top_mlp = MLP(
            config.top_mlp, dropout=config.dropout, seed=2 * config.seed + 1000, name="top_mlp"
        )
        self.top_mlp.build((None, width))
        self.built = True

    @property
    def config(self) -> DLRMConfig:
        """What the model is made of."""
        return DLRMConfig.from_json(self._config_json)

    @property
    def collections(self) -> list[EmbeddingCollection]:
        """The tables, in a list, as every model of this package has them."""
        return [self.embeddings]

    def build(self, input_shape: Any = None) -> None:
        """Does nothing: the constructor knows every shape."""
        del input_shape
        self.built = True

    def call(self, inputs: Mapping[str, Any], training: bool | None = None) -> tf.Tensor:
        """Returns logits [batch, 1]; see the class."""
        ids = dict(inputs)
        vectors = []
        if self.bottom_mlp is not None:
            if DENSE not in ids:
                raise ValueError(
                    f"The inputs of {self.name} have no '{DENSE}', the dense features, only "
                    f"{sorted(ids)}."
                )
            vectors.append(self.bottom_mlp(ids.pop(DENSE), training=training))
        embedded = self.embeddings(ids, training=training)
        vectors += [embedded[feature.name] for feature in self.embeddings.features]
        if self.interaction is None:
            combined = tf.concat(vectors, 1)
        else:
            combined = self.interaction(vectors, training=training)
            if self.bottom_mlp is not None:
                combined = tf.concat([vectors[0], combined], 1)
        # The loss needs all digits, whatever the layers compute in.
        return tf.cast(self.top_mlp(combined, training=training), tf.float32)

    def compute_output_shape(self, input_shape: Mapping[str, Any]) -> tuple[int | None, int]:
        """Returns (batch, 1)."""
        return (next(iter(input_shape.values()))[0], 1)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that make an equal model."""
        return {"name": self.name, "config": json.loads(self._config_json)}
