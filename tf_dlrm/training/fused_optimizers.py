"""Keras's optimizers of dense weights with one operation for the update of each weight.

Keras's own make half a dozen of it, each a pass over the weights and, of small ones, each as long
as the whole update.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tf_dlrm.keras_api import keras
from tf_dlrm.keras_internals import slot_of


class FusedSGD(keras.optimizers.SGD):
    """Gradient descent without momentum."""

    def update_step(self, gradient: tf.Tensor, variable: Any) -> None:
        """Updates one weight."""
        tf.raw_ops.ResourceApplyGradientDescent(
            var=variable.handle,
            alpha=tf.cast(self.learning_rate, variable.dtype),
            delta=gradient,
            use_locking=True,
        )


class FusedAdagrad(keras.optimizers.Adagrad):
    """Adagrad with epsilon outside of the root, as PyTorch has it and unlike Keras."""

    def update_step(self, gradient: tf.Tensor, variable: Any) -> None:
        """Updates one weight and its accumulator."""
        tf.raw_ops.ResourceApplyAdagradV2(
            var=variable.handle,
            accum=slot_of(self, "accumulators", variable).handle,
            lr=tf.cast(self.learning_rate, variable.dtype),
            epsilon=tf.cast(self.epsilon, variable.dtype),
            grad=gradient,
            use_locking=True,
        )


class FusedAdam(keras.optimizers.Adam):
    """Adam."""

    def update_step(self, gradient: tf.Tensor, variable: Any) -> None:
        """Updates one weight and its moments."""
        step = tf.cast(self.iterations + 1, variable.dtype)
        numbers = {
            "lr": self.learning_rate,
            "beta1": self.beta_1,
            "beta2": self.beta_2,
            "epsilon": self.epsilon,
        }
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=slot_of(self, "momentums", variable).handle,
            v=slot_of(self, "velocities", variable).handle,
            beta1_power=tf.cast(self.beta_1, variable.dtype) ** step,
            beta2_power=tf.cast(self.beta_2, variable.dtype) ** step,
            grad=gradient,
            use_locking=True,
            **{name: tf.cast(number, variable.dtype) for name, number in numbers.items()},
        )
