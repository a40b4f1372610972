"""TableModel: a Keras model whose tables follow the learning rate of its optimizer."""

from collections.abc import Mapping
from typing import Any

from tf_dlrm.keras_api import keras
from tf_dlrm.layers.embedding_collection import EmbeddingCollection

# The key in a compiled model's config.
_REFERENCE_RATE = "tables_reference_rate"


class TableModel(keras.Model):
    """Tells its tables when it is compiled: see `EmbeddingCollection` for what they then follow."""

    @property
    def collections(self) -> list[EmbeddingCollection]:
        """The layers that have the model's tables."""
        raise NotImplementedError

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """As Keras's.

        Raises:
            ValueError: If the optimizer does what tables cannot follow.
        """
        self._compile(None, *args, **kwargs)

    def _compile(self, reference_rate: float | None, *args: Any, **kwargs: Any) -> None:
        super().compile(*args, **kwargs)
        if self.optimizer is not None:
            for collection in self.collections:
                if collection.trainable:
                    collection.follow_model(self.optimizer, reference_rate)

    def get_compile_config(self) -> dict[str, Any]:
        """Returns what `compile_from_config` takes."""
        config = super().get_compile_config()
        # The optimizer's config has its rate of today, which callbacks may have changed.
        return config and {**config, _REFERENCE_RATE: self.collections[0].reference_rate}

    def compile_from_config(self, config: Mapping[str, Any]) -> None:
        """Compiles the model as one that was saved; its tables have the rates that they had."""
        config = dict(config)
        reference_rate = config.pop(_REFERENCE_RATE, None)
        self._compile(reference_rate, **keras.saving.deserialize_keras_object(config))
        if hasattr(self.optimizer, "build"):
            self.optimizer.build(self.trainable_variables)

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Lets Keras 3 learn the shapes of a batch, under a strategy, from the first replica.

        Keras takes the mean over the replicas, which neither ragged ids have nor parts of a batch
        that differ in size. Seen in Keras 3.15; Keras 2 has no such method and calls none.
        """
        if iterator is not None and self._distribute_strategy is not None:
            strategy = self.distribute_strategy
            for _, _, batches in iterator:
                batch = next(batches)
                data_batch = keras.tree.map_structure(
                    lambda value: strategy.experimental_local_results(value)[0], batch
                )
                break
        super()._maybe_symbolic_build(data_batch=data_batch)
