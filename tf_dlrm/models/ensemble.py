"""Ensemble: several models of one config, trained side by side, whose logits are averaged."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tf_dlrm.errors import check_whole
from tf_dlrm.keras_api import keras
from tf_dlrm.keras_internals import policy_of
from tf_dlrm.layers.embedding_collection import EmbeddingCollection
from tf_dlrm.models.dlrm import DLRM
from tf_dlrm.models.ranking_model import RankingConfig, RankingModel
from tf_dlrm.models.table_model import TableModel
from tfrecords.tracing import traced_as_written

# Between the seeds of two members: more than the layers of one model use.
_SEED_STRIDE = 100_003


@keras.saving.register_keras_serializable(package="tf_dlrm")
class Ensemble(TableModel):
    """Models that differ in their first values only, each with tables and MLPs of its own.

    On few rows, where one model's quality varies with its seed, the mean of several logits is
    better than any of them. It costs as many times the memory and the time.

    A loss sees the logits of all members, so in `fit` the labels are repeated, [batch, size].

    Args:
        config: What each member is made of; member k has the seed `config.seed + 100003 * k`.
        size: Number of members.
        plan: As of `RankingModel`.
        communication_dtype: As of `RankingModel`.
        model: The class of the members, whose config it is.

    Call arguments:
        inputs: As of `RankingModel`.
        training: Whether each member's logits are wanted, for a loss of its own.

    Returns:
        While training, the members' logits [batch, size]; else their mean [batch, 1].

    Example:
        >>> table = TableConfig("item", 1000, 8, optimizer=SGD(0.1))
        >>> model = Ensemble(DLRMConfig(2, (FeatureConfig("item", table),), (16, 8), (16, 1)), 4)
        >>> model({"dense": tf.ones((3, 2)), "item": tf.constant([1, 2, 3])}).shape
        TensorShape([3, 1])
    """

    def __init__(
        self,
        config: RankingConfig | Mapping[str, Any],
        size: int,
        plan: Any = None,
        communication_dtype: str = "float32",
        model: type[RankingModel] | str = DLRM,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # A name comes from get_config.
        make: Any = keras.saving.get_registered_object(model) if isinstance(model, str) else model
        first = make.config_class.from_dict(config) if isinstance(config, Mapping) else config
        check_whole("size", size, 1)
        self.size = size
        # One attribute each: tf.train.Checkpoint does not look into lists of Keras 3.
        for k in range(size):
            seed = first.seed + _SEED_STRIDE * k
            name = f"member_{k}"
            with tf.name_scope(name):
                member = make(
                    dataclasses.replace(first, seed=seed),
                    plan,
                    communication_dtype,
                    name=name,
                    dtype=policy_of(self),
                )
            setattr(self, name, member)
        self.built = True

    @property
    def config(self) -> Any:
        """What each member is made of; their seeds differ, and this is the first one's."""
        return self.members[0].config

    @property
    def members(self) -> list[RankingModel]:
        """The models."""
        return [getattr(self, f"member_{k}") for k in range(self.size)]

    @property
    def collections(self) -> list[EmbeddingCollection]:
        """The tables of all members."""
        return [member.embeddings for member in self.members]

    def checkpoint_key(self, collection: int, table: str, slot: str = "rows") -> str:
        """See `TableModel.checkpoint_key`."""
        return f"member_{collection}/{self.members[collection].checkpoint_key(0, table, slot)}"

    @traced_as_written
    def call(self, inputs: Mapping[str, Any], training: bool | None = None) -> tf.Tensor:
        """Returns logits; see the class."""
        self._remember(inputs)
        logits = tf.concat([member(inputs, training=training) for member in self.members], 1)
        return logits if training else tf.reduce_mean(logits, 1, keepdims=True)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that make an equal model."""
        return {
            **super().get_config(),
            "config": self.config.to_dict(),
            "size": self.size,
            "model": keras.saving.get_registered_name(type(self.members[0])),
        }


def members_of(model: RankingModel | Ensemble) -> list[RankingModel]:
    """Returns the members of an ensemble, or a model alone.

    No property of the model: Keras 3 looks for layers in those, and would find it in itself.
    """
    return model.members if isinstance(model, Ensemble) else [model]
