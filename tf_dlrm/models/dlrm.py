"""DLRM: the deep learning recommendation model of Naumov et al."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tf_dlrm.embeddings import Optimizer
from tf_dlrm.keras_api import built, keras
from tf_dlrm.layers.columns import Columns, have_shared_rows, repeated
from tf_dlrm.layers.dot_interaction import DotInteraction
from tf_dlrm.layers.projected_interaction import ProjectedInteraction
from tf_dlrm.models.ranking_model import (
    RankingConfig,
    RankingModel,
    built_bottom_mlp,
    built_top_mlp,
    features_of,
    flatten,
    layer_seed,
)

INTERACTIONS = ("dot", "concat", "projection")


@dataclasses.dataclass(frozen=True)
class DLRMConfig(RankingConfig):
    """What a DLRM is made of.

    Attributes, beside those of `RankingConfig`:
        dense_features: Number of dense features; 0 for none, and then no bottom MLP.
        bottom_mlp: Outputs of the bottom MLP's layers, the input not included.
        top_mlp: Outputs of the top MLP's layers, the input not included; the last is 1.
        interaction: "dot" (products of all pairs, after the bottom MLP's output), "concat", or
            "projection" (products of two sets of projected vectors, after the bottom MLP's output).
        self_interaction: Whether "dot" includes each vector's product with itself.
        dropout: Rate of dropout on the top MLP's hidden layers while training; the paper has none.
        first_projection: Units of the first MLP of "projection", see `ProjectedInteraction`.
        second_projection: Units of the second.
    """

    bottom_mlp: tuple[int, ...]
    top_mlp: tuple[int, ...]
    interaction: str = "dot"
    self_interaction: bool = False
    dropout: float = 0.0
    first_projection: tuple[int, ...] = ()
    second_projection: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.interaction not in INTERACTIONS:
            raise ValueError(
                f"interaction must be one of {INTERACTIONS}, but is {self.interaction!r}."
            )
        if self.interaction != "concat":
            self._check_widths()
        if self.interaction != "dot" and self.self_interaction:
            raise ValueError(
                f"self_interaction is for interaction='dot', but that is {self.interaction!r}."
            )
        for field in ("first_projection", "second_projection"):
            units = getattr(self, field)
            if bool(units) != (self.interaction == "projection"):
                raise ValueError(
                    f"{field} must have layers if and only if interaction is 'projection', but is "
                    f"{units} for {self.interaction!r}."
                )
            if units and units[-1] % self.dims[0]:
                raise ValueError(
                    f"{field} must end in a multiple of the embedding dim, {self.dims[0]}, but is "
                    f"{units}."
                )

    @classmethod
    def for_dataset(
        cls,
        dataset: Any,
        dim: int,
        optimizer: Optimizer,
        bottom_mlp: Sequence[int] = (512, 256),
        top_mlp: Sequence[int] = (512, 256),
        **options: Any,
    ) -> DLRMConfig:
        """Returns a DLRM for the columns of a data set, a table for each feature.

        Args:
            dataset: What `tfrecords.open` returns, or anything with such a `schema`.
            dim: Columns of all tables.
            optimizer: That of all tables, such as `Adagrad(0.02)`.
            bottom_mlp: Outputs of the bottom MLP's hidden layers; a last one of `dim` is added. A
                data set without dense columns has no bottom MLP.
            top_mlp: Outputs of the top MLP's hidden layers; a last one of 1 is added.
            **options: All else, see the class.
        """
        schema = dataset.schema
        return cls(
            dense_features=len(schema.dense),
            features=features_of(schema.categorical, dim, optimizer),
            bottom_mlp=(*bottom_mlp, dim) if schema.dense else (),
            top_mlp=(*top_mlp, 1),
            **options,
        )

    def _check_widths(self) -> None:
        dims = {feature.name: feature.table.dim for feature in self.features}
        if len(set(dims.values())) > 1:
            raise ValueError(
                f"interaction={self.interaction!r} needs tables of one dim, but the features have "
                f"{dims}."
            )
        dim = self.features[0].table.dim
        if self.bottom_mlp and self.bottom_mlp[-1] != dim:
            raise ValueError(
                f"bottom_mlp must end at the embedding dim, {dim}, for "
                f"interaction={self.interaction!r}, but is {self.bottom_mlp}."
            )
        alone = len(self.features) + bool(self.bottom_mlp) < 2
        if self.interaction == "dot" and alone and not self.self_interaction:
            raise ValueError("interaction='dot' needs two vectors or more, but there is only one.")


@keras.saving.register_keras_serializable(package="tf_dlrm")
class DLRM(RankingModel):
    """Bottom MLP and embeddings, their interaction, top MLP, one logit.

    Arguments and inputs are those of `RankingModel`, with a `DLRMConfig`.

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

    config_class = DLRMConfig
    _shares_rows = True

    def _build_layers(self, config: DLRMConfig) -> None:
        self.bottom_mlp = built_bottom_mlp(config)
        widths = [*config.bottom_mlp[-1:], *config.dims]
        self.interaction = None
        width = sum(widths)
        if config.interaction != "concat":
            self.interaction = DotInteraction(config.self_interaction, name="interaction")
            if config.interaction == "projection":
                self.interaction = ProjectedInteraction(
                    config.first_projection,
                    config.second_projection,
                    seed=layer_seed(config, 2),
                    name="interaction",
                )
            shapes = [(None, size) for size in widths]
            built(self.interaction, shapes)
            width = self.interaction.compute_output_shape(shapes)[1]
            width += widths[0] if config.bottom_mlp else 0
        self.top_mlp = built_top_mlp(config, width)

    def _logits(
        self, dense: tf.Tensor | None, vectors: list[tf.Tensor], training: bool | None
    ) -> tf.Tensor:
        bottom = None
        if self.bottom_mlp is not None:
            bottom = self.bottom_mlp(dense, training=training)
            vectors = [bottom, *vectors]
        if have_shared_rows(vectors):
            if isinstance(self.interaction, DotInteraction):
                return self._logits_by_columns(bottom, vectors)
            vectors = repeated(vectors)
            bottom = None if bottom is None else vectors[0]
        if self.interaction is None:
            combined = flatten(None, vectors)
        elif bottom is not None and isinstance(self.interaction, DotInteraction):
            combined = self.interaction.after_first(vectors, training)
        else:
            combined = flatten(bottom, [self.interaction(vectors, training=training)])
        return self.top_mlp(combined, training=training)

    def _logits_by_columns(self, bottom: tf.Tensor | None, vectors: list[tf.Tensor]) -> tf.Tensor:
        """Returns logits where some vectors are the same in all rows."""
        assert isinstance(self.interaction, DotInteraction)  # for mypy
        columns = self.interaction.columns(vectors)
        if bottom is not None:
            width = bottom.shape[1]
            moved = [Columns(values, [width + k for k in places]) for values, places in columns]
            columns = [Columns(bottom, range(width)), *moved]
        return self.top_mlp.of_columns(columns)
