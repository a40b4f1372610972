"""One budget of parameters for all models."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from tf_dlrm.training.build import build_model
from tf_dlrm.training.options.config import TrainingConfig
from tf_dlrm.training.options.model import ModelOptions
from tfrecords.schema import Schema

# Where bisection ends: far below one unit of the widest layer.
_HALVINGS = 40
_MOST_FACTOR = 1000.0


def dense_parameters(config: TrainingConfig, schema: Schema) -> tuple[int, int]:
    """Returns the parameters beside the tables, and the inputs of the top MLP (0 without one)."""
    # Those do not depend on how many rows the tables have.
    small = dataclasses.replace(
        schema,
        categorical=tuple(
            dataclasses.replace(column, vocabulary_size=2, out_of_vocabulary=None)
            for column in schema.categorical
        ),
    )
    options = dataclasses.replace(config.model, ensemble_size=1)
    model = build_model(options, config.optimizer, small, seed=0)
    count = sum(int(np.prod(v.shape)) for v in model.trainable_variables if v.shape.rank)
    mlp = getattr(model, "top_mlp", None)
    return count, int(mlp.dense_layers[0].kernel.shape[0]) if mlp is not None else 0


def matched(config: TrainingConfig, schema: Schema, budget: int) -> ModelOptions:
    """Returns the model's options with the top MLP that comes nearest to a budget.

    The budget is of parameters beside the tables. All hidden layers are scaled by one factor. A
    model without hidden layers stays as it is.
    """
    options = config.model
    hidden = options.top_mlp[:-1]
    if "top_mlp" not in options.sizes or not hidden:
        return options
    count, inputs = dense_parameters(config, schema)
    others = count - mlp_parameters(inputs, options.top_mlp)

    def scaled(factor: float) -> tuple[int, ...]:
        return (*(max(1, round(factor * width)) for width in hidden), options.top_mlp[-1])

    low, high = 0.0, _MOST_FACTOR
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if others + mlp_parameters(inputs, scaled(middle)) < budget:
            low = middle
        else:
            high = middle
    best = min(
        (scaled(low), scaled(high)),
        key=lambda units: abs(others + mlp_parameters(inputs, units) - budget),
    )
    return dataclasses.replace(options, top_mlp=best)


def mlp_parameters(inputs: int, units: Sequence[int]) -> int:
    """Returns the weights and biases of an MLP."""
    return sum(a * b + b for a, b in itertools.pairwise((inputs, *units)))
