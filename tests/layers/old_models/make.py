"""Makes a folder beside it: PYTHONPATH=CHECKOUT TF_USE_LEGACY_KERAS=1 python make.py, and with 0.

CHECKOUT has the version whose files shall be kept. The folder is that of the Keras that is used,
with a model of two tables in two kinds of files, and `expected.npz`: the model's outputs and tables
when it was written, and after `STEPS` more.
"""

import pathlib

import numpy as np
import tensorflow as tf

from tf_dlrm.embeddings import Adagrad, FeatureConfig, LazyAdam, TableConfig, WeightedRows
from tf_dlrm.keras_api import keras, uses_legacy_keras
from tf_dlrm.layers import EmbeddingCollection

HERE = pathlib.Path(__file__).parent
FOLDER = HERE / ("keras2" if uses_legacy_keras() else "keras3")
STEPS = 3
ROWS = 16


def batch() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Returns the ids and labels of every step."""
    rng = np.random.default_rng(0)
    ids = {"a": rng.integers(0, 20, ROWS), "b": rng.integers(0, 20, (ROWS, 3))}
    ids["c"] = rng.integers(0, 9, (ROWS, 1))
    return ids, (ids["a"] % 2).astype("float32")[:, None]


def build(seed: int = 0) -> keras.Model:
    """Returns a model of new weights."""
    shared = TableConfig("shared", 20, 4, optimizer=Adagrad(0.1), combiner="mean")
    small = TableConfig("small", 9, 2, optimizer=LazyAdam(0.05), storage=WeightedRows())
    features = [FeatureConfig("a", shared), FeatureConfig("b", shared), FeatureConfig("c", small)]
    inputs = {
        "a": keras.Input((), dtype="int64", name="a"),
        "b": keras.Input((3,), dtype="int64", name="b"),
        "c": keras.Input((1,), dtype="int64", name="c"),
    }
    vectors = EmbeddingCollection(features, seed, name="tables")(inputs)
    joined = keras.layers.Concatenate()([vectors[name] for name in "abc"])
    initializer = keras.initializers.RandomUniform(-1, 1, seed=seed)
    model = keras.Model(inputs, keras.layers.Dense(1, kernel_initializer=initializer)(joined))
    model.compile(keras.optimizers.SGD(0.05), keras.losses.BinaryCrossentropy(from_logits=True))
    return model


def train(model: keras.Model) -> None:
    """Makes `STEPS` steps."""
    ids, labels = batch()
    dense = keras.optimizers.SGD(0.05)
    for _ in range(STEPS):
        with tf.GradientTape() as tape:
            loss = model.loss(labels, model(ids, training=True))
        weights = model.trainable_variables
        dense.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))


def state_of(model: keras.Model) -> dict[str, np.ndarray]:
    """Returns the outputs for the batch, and the tables with their slots."""
    ids, _ = batch()
    return {"outputs": np.asarray(model(ids))} | model.get_layer("tables").tables.to_arrays()


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    model = build()
    train(model)
    model.save(FOLDER / "model.keras")
    model.save_weights(FOLDER / "model.weights.h5")
    before = {f"before/{name}": value for name, value in state_of(model).items()}
    train(model)
    after = {f"after/{name}": value for name, value in state_of(model).items()}
    np.savez_compressed(FOLDER / "expected.npz", **before, **after)


if __name__ == "__main__":
    main()
