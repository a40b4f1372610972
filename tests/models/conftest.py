"""What the tests of several models share: small inputs, and NumPy's view of a model's parts."""

import types

import numpy as np
import pytest

from tf_dlrm.embeddings import SGD, FeatureConfig, TableConfig

ROWS = (30, 20, 10)


def _features(*dims, optimizer=None):
    return tuple(
        FeatureConfig(f"C{k}", TableConfig(f"T{k}", ROWS[k], dim, optimizer=optimizer or SGD(0.1)))
        for k, dim in enumerate(dims)
    )


def _inputs(dense=0, features=3, rows=6):
    rng = np.random.default_rng(0)
    inputs = {"dense": rng.normal(size=(rows, dense)).astype("f")} if dense else {}
    return inputs | {f"C{k}": rng.integers(0, ROWS[k], rows) for k in range(features)}


def _randomized(model):
    """Gives every weight and row values that no initializer gives, so that each one matters."""
    rng = np.random.default_rng(1)
    for weight in model.trainable_variables:
        if len(weight.shape):  # the traps of the tables stay 0
            weight.assign(rng.normal(size=tuple(weight.shape)) * 0.5)
    for collection in model.collections:
        for name in collection.tables:
            table = collection.tables[name]
            table.assign_rows(rng.normal(size=tuple(table.shape())).astype("f"), 0)
    return model


def _vectors(model, inputs):
    tables = model.embeddings.tables
    return [
        tables[feature.table.name].read_rows().numpy()[inputs[feature.name]]
        for feature in model.embeddings.features
    ]


def _mlp(layer, x):
    for k, dense in enumerate(layer.dense_layers):
        x = x @ dense.kernel.numpy() + dense.bias.numpy()
        if k < len(layer.units) - 1 or layer.final_activation.__name__ == "relu":
            x = np.maximum(x, 0)
    return x


@pytest.fixture
def parts():
    """Functions that make features and inputs, and compute parts of a model in NumPy."""
    return types.SimpleNamespace(
        features=_features, inputs=_inputs, randomized=_randomized, vectors=_vectors, mlp=_mlp
    )
