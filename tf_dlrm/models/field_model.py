"""FieldModel: what models have in common that start from a factorization machine's fields."""

import dataclasses
from typing import Any

import tensorflow as tf

from tf_dlrm.embeddings.restack import restack
from tf_dlrm.keras_api import built
from tf_dlrm.layers.dense_vectors import DenseVectors
from tf_dlrm.models.ranking_model import RankingConfig, RankingModel, layer_seed


@dataclasses.dataclass(frozen=True)
class FieldConfig(RankingConfig):
    """What a `FieldModel` is made of.

    Attributes, beside those of `RankingConfig`:
        features: The categorical features and their tables, all of one dim: the first column is
            the weight of the first-order term, the others are the vector.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.dims)) > 1 or self.dims[0] < 2:
            dims = {feature.name: feature.table.dim for feature in self.features}
            raise ValueError(
                "features must have tables of one dim of at least 2, whose first column is the "
                f"weight of the first-order term, but have {dims}."
            )

    @property
    def fields(self) -> int:
        """Number of fields, dense and categorical."""
        return self.dense_features + len(self.features)

    @property
    def dim(self) -> int:
        """Size of the fields' vectors."""
        return self.dims[0] - 1


class FieldModel(RankingModel):
    """A first-order term, and interactions of one vector for each field.

    Categorical features look up both in one row of their table, weight first: one lookup in place
    of two, and an optimizer of elements trains them as it would apart (row-wise Adagrad shares its
    accumulator between them). A dense feature has a row of its own, times its value.

    Subclasses define `_build_interactions` and `_interactions`.
    """

    first_order_columns = 1

    def _build_layers(self, config: FieldConfig) -> None:
        self.dense_vectors = None
        if config.dense_features:
            self.dense_vectors = DenseVectors(
                config.dim + 1, seed=layer_seed(config, 0), name="dense_vectors"
            )
            built(self.dense_vectors, (None, config.dense_features))
        self._build_interactions(config)

    def _build_interactions(self, config: Any) -> None:
        """Makes and builds the layers on the vectors."""
        raise NotImplementedError

    def _interactions(self, vectors: tf.Tensor, training: bool | None) -> tf.Tensor:
        """Returns logits [batch, 1] of the fields' vectors [batch, fields, dim]."""
        raise NotImplementedError

    def _logits(
        self, dense: tf.Tensor | None, vectors: list[tf.Tensor], training: bool | None
    ) -> tf.Tensor:
        fields = restack(vectors, 1)
        if self.dense_vectors is not None:
            fields = tf.concat([self.dense_vectors(dense), fields], 1)
        first_order = tf.reduce_sum(fields[:, :, 0], 1, keepdims=True)
        return first_order + self._interactions(fields[:, :, 1:], training)
