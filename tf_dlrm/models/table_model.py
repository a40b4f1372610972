"""TableModel: what Keras's models do, for models that have tables and are made from a config."""

from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from tf_dlrm.keras_api import keras, uses_legacy_keras
from tf_dlrm.keras_internals import layers_within, only_shapes_are_wanted, policy_of, strategy_of
from tf_dlrm.layers.embedding_collection import EmbeddingCollection

# The key in a compiled model's config.
_REFERENCE_RATE = "tables_reference_rate"


class TableModel(keras.Model):
    """Compiles, saves and exports as other models of Keras, tables and all.

    It tells its tables when it is compiled: see `EmbeddingCollection` for what they then follow.
    """

    # The specs of the inputs of the first call, by name.
    _remembered: tuple[tuple[str, Any], ...] = ()
    # Reference rates that are part of the traced training step.
    _traced_rates: tuple[float | None, ...] = ()

    @property
    def collections(self) -> list[EmbeddingCollection]:
        """The layers that have the model's tables."""
        raise NotImplementedError

    def checkpoint_key(self, collection: int, table: str, slot: str = "rows") -> str:
        """Returns the key of a table in a checkpoint, after that of the model.

        Args:
            collection: Number of the layer among `collections`.
            table: Name of the table.
            slot: "rows", or a slot of its optimizer.
        """
        raise NotImplementedError

    def build(self, input_shape: Any = None) -> None:
        """Does nothing: the constructor knows every shape."""
        del input_shape
        self.built = True

    def compute_output_shape(self, input_shape: Mapping[str, Any]) -> tuple[int | None, int]:
        """Returns (batch, 1), the shape outside training."""
        batch = next(iter(input_shape.values()))
        while isinstance(batch, (tuple, list, tf.TensorShape)):  # of a tensor, or of a tuple of two
            batch = batch[0]
        return (batch, 1)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """As Keras's.

        Raises:
            ValueError: If the optimizer does what tables cannot follow.
        """
        self._compile(None, *args, **kwargs)

    def _compile(self, reference_rate: float | None, *args: Any, **kwargs: Any) -> None:
        super().compile(*args, **kwargs)
        self._tell_tables(reference_rate)

    def _tell_tables(self, reference_rate: float | None = None) -> None:
        if self.optimizer is not None:
            for collection in self.collections:
                if collection.trainable:
                    collection.follow_model(self.optimizer, reference_rate)

    def make_train_function(self, force: bool = False) -> Any:
        """As Keras's; traces the step again if tables have come to follow something else."""
        self._tell_tables()
        rates = tuple(collection.reference_rate for collection in self.collections)
        force = force or rates != self._traced_rates
        self._traced_rates = rates
        return super().make_train_function(force)

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
        if iterator is not None and strategy_of(self) is not None:
            strategy = self.distribute_strategy
            for _, _, batches in iterator:
                batch = next(batches)
                data_batch = keras.tree.map_structure(
                    lambda value: strategy.experimental_local_results(value)[0], batch
                )
                break
        super()._maybe_symbolic_build(data_batch=data_batch)

    def get_config(self) -> dict[str, Any]:
        """Returns name, dtype policy, and which layers are frozen."""
        frozen = [path for path, layer in _layers_of(self) if not layer.trainable]
        policy = policy_of(self).name
        return {"name": self.name, "dtype": policy, "trainable": self.trainable, "frozen": frozen}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Any = None) -> Any:
        """Returns the model that `get_config` described, the same layers frozen."""
        del custom_objects
        config = dict(config)
        trainable, frozen = config.pop("trainable", True), config.pop("frozen", [])
        model = cls(**config)
        if frozen or not trainable:
            # What is set of a layer is set of the layers in it, which come after it here.
            model.trainable = trainable
            for path, layer in _layers_of(model):
                layer.trainable = path not in frozen
        return model

    def _remember(self, inputs: Mapping[str, Any]) -> None:
        """Keeps what the inputs of the first call look like, in batches of any size."""
        if self._remembered or uses_legacy_keras() or only_shapes_are_wanted():
            return
        specs = []
        for name, value in inputs.items():
            if isinstance(value, tuple):  # ids and their weights
                specs.append((name, tuple(map(_spec, value, (name, f"{name}_weights")))))
            else:
                specs.append((name, _spec(value, name)))
        self._remembered = tuple(specs)

    def _spec_of_inputs(self) -> dict[str, Any]:
        for name, spec in self._remembered:
            if not all(isinstance(part, tf.TensorSpec) for part in tf.nest.flatten(spec)):
                raise ValueError(
                    f"Keras 3 exports models of dense inputs only, but '{name}' of {self.name} was "
                    f"given as {spec}. Write a tf.function of the model and give it to "
                    "tf.saved_model.save as a signature."
                )
        if not self._remembered:
            raise ValueError(
                f"What inputs {self.name} has is not known: call it on a batch before it is "
                "exported, or give export an input_signature."
            )
        return dict(self._remembered)

    def export(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """As Keras's; without a signature, for inputs like those of the first call.

        Raises:
            ValueError: If there is no signature and the model was not called, or on inputs that
                Keras cannot export.
        """
        given = len(args) > 2 or kwargs.get("input_signature") is not None
        if not uses_legacy_keras() and not given:
            kwargs["input_signature"] = [self._spec_of_inputs()]
        super().export(filepath, *args, **kwargs)

    @property
    def _default_save_signature(self) -> Any:
        """The signature that tf.saved_model.save writes if it is given none."""
        if uses_legacy_keras():
            return super()._default_save_signature
        if not self._remembered:
            return None

        @tf.function(input_signature=[self._spec_of_inputs()], autograph=False)
        def serving_default(inputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
            return self(inputs, training=False)

        return serving_default


def _spec(tensor: Any, name: str) -> Any:
    if isinstance(tensor, tf.Tensor):
        return tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype, name)
    return tf.type_spec_from_value(tensor)


def _layers_of(layer: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields all layers within a layer with their paths, each before the layers within it."""
    for inner in layers_within(layer):
        if not isinstance(inner, keras.metrics.Metric):
            path = f"{prefix}{inner.name}"
            yield path, inner
            yield from _layers_of(inner, f"{path}/")
