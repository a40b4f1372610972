"""MLP: a stack of dense layers, initialised as in the paper's code."""

import random
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tf_dlrm.embeddings.restack import side_by_side
from tf_dlrm.keras_api import built, keras
from tf_dlrm.keras_internals import policy_of
from tf_dlrm.kernels import pairs
from tf_dlrm.kernels.relu_dense import relu_dense
from tf_dlrm.layers.columns import Columns, is_shared
from tf_dlrm.layers.initial_weights import normal_by_fans
from tf_dlrm.layers.resumable_dropout import ResumableDropout
from tfrecords.tracing import traced_as_written


@keras.saving.register_keras_serializable(package="tf_dlrm")
class MLP(keras.layers.Layer):
    """Dense layers one after the other.

    Weights start as N(0, sqrt(2 / (inputs + outputs))) and biases as N(0, sqrt(1 / outputs)).

    Args:
        units: Outputs of each layer.
        activation: Activation of all layers but the last.
        final_activation: Activation of the last layer; None is linear.
        dropout: Rate of dropout after each layer but the last, while training.
        seed: Seed of the first values; None draws others each time.

    Call arguments:
        inputs: Floats [..., inputs].

    Returns:
        Floats [..., units[-1]].

    Example:
        >>> MLP([512, 256, 64, 16], final_activation="relu")(tf.ones((2, 13))).shape
        TensorShape([2, 16])

    References:
        Naumov et al., arXiv 1906.00091, section 2.1; `create_mlp` of its code.
    """

    def __init__(
        self,
        units: Sequence[int],
        activation: Any = "relu",
        final_activation: Any = None,
        dropout: float = 0.0,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not units or any(isinstance(u, bool) or not isinstance(u, int) or u < 1 for u in units):
            raise ValueError(
                f"units must be one or more whole numbers of at least 1, but is {units!r}."
            )
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must be in [0, 1), but is {dropout}.")
        self.units = tuple(units)
        self.activation = keras.activations.get(activation)
        self.final_activation = keras.activations.get(final_activation)
        self.dropout = dropout
        self.seed = seed
        last = len(self.units) - 1
        # One attribute each: tf.train.Checkpoint does not look into lists of Keras 3.
        for k, size in enumerate(self.units):
            dense = keras.layers.Dense(
                size,
                activation=self.final_activation if k == last else self.activation,
                kernel_initializer=normal_by_fans(None if seed is None else seed + 3 * k),
                bias_initializer=keras.initializers.RandomNormal(
                    stddev=size**-0.5, seed=None if seed is None else seed + 3 * k + 1
                ),
                dtype=policy_of(self),
                name=f"dense_{k}",
            )
            setattr(self, f"dense_{k}", dense)
            if dropout and k < last:
                drop_seed = random.randrange(1 << 31) if seed is None else seed + 3 * k + 2
                drop = ResumableDropout(dropout, seed=drop_seed, dtype=policy_of(self))
                setattr(self, f"dropout_{k}", drop)

    @property
    def dense_layers(self) -> list[Any]:
        """The dense layers, from the input on."""
        return [getattr(self, f"dense_{k}") for k in range(len(self.units))]

    def build(self, input_shape: Any) -> None:
        """Creates the weights for inputs of the width `input_shape[-1]`."""
        shape = tuple(input_shape)
        for layer in self.dense_layers:
            built(layer, shape)
            shape = (*shape[:-1], layer.units)
        for k in range(len(self.units) - 1 if self.dropout else 0):
            built(getattr(self, f"dropout_{k}"))
        self.built = True

    @traced_as_written
    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Returns [..., units[-1]]."""
        # Not by `training`: with Keras 3 somebody may compile this layer by XLA, which has no such
        # kernel. Who allows kernels expressly does not.
        fused = pairs.are_used(None, inputs.dtype.name) and inputs.shape.rank == 2
        return self._from_layer(inputs, 0, fused, training)

    def of_columns(self, columns: Sequence[Columns]) -> tf.Tensor:
        """Returns what a call outside of training makes of a matrix whose columns come apart.

        The first layer's products of columns that all rows share are computed once.

        Args:
            columns: All columns of the matrix; not all of them shared.
        """
        first = self.dense_layers[0]
        dtype = columns[0].values.dtype
        kernel, total = tf.cast(first.kernel, dtype), tf.cast(first.bias, dtype)
        for shared in (True, False):
            own = [part for part in columns if is_shared(part.values) == shared]
            if own:
                places = [place for part in own for place in part.places]
                values = side_by_side([part.values for part in own])
                # The shared products are a bias of the others.
                total = tf.nn.bias_add(tf.matmul(values, tf.gather(kernel, places)), total)
                total = tf.reshape(total, [-1]) if shared else first.activation(total)
        return self._from_layer(total, 1, False, False)

    def _from_layer(
        self, inputs: tf.Tensor, first: int, fused: bool, training: bool | None
    ) -> tf.Tensor:
        """Returns what the layers from one on make of its inputs."""
        for k, layer in enumerate(self.dense_layers):
            if k < first:
                continue
            if fused and layer.activation is keras.activations.relu:
                weights = map(tf.convert_to_tensor, (layer.kernel, layer.bias))
                inputs = relu_dense(inputs, *weights)
            else:
                inputs = layer(inputs)
            if self.dropout and k < len(self.units) - 1:
                inputs = getattr(self, f"dropout_{k}")(inputs, training=training)
        return inputs

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Returns `input_shape` with the last size replaced by the last of `units`."""
        return (*tuple(input_shape)[:-1], self.units[-1])

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that make an equal layer."""
        return {
            **super().get_config(),
            "units": list(self.units),
            "activation": keras.activations.serialize(self.activation),
            "final_activation": keras.activations.serialize(self.final_activation),
            "dropout": self.dropout,
            "seed": self.seed,
        }
