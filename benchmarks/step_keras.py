"""Peers of stock Keras: Keras 3, tf_keras, and TensorFlow Recommenders' `Ranking` model.

    python step_keras.py keras_3|tf_keras|tfrs CASE

Bags of different sizes are filled up with id 0 and a weight of 0, as Keras's `Embedding` asks for.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from step_cases import KERAS_3, LEARNING_RATE, TFRS, Case, serve


def _padded(case: Case) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Returns the columns of all batches, one after the other, and the labels."""
    columns: dict[str, list[np.ndarray]] = {}
    labels = []
    for dense, values, lengths, label in case.batches():
        columns.setdefault("dense", []).append(dense)
        labels.append(label)
        for k, (ids, own) in enumerate(zip(values, lengths, strict=True)):
            there = np.arange(case.ids[k]) < own[:, np.newaxis]
            padded = np.zeros(there.shape, np.int32)
            padded[there] = ids
            columns.setdefault(f"t{k}", []).append(padded)
            if case.ragged:
                columns.setdefault(f"w{k}", []).append(there.astype(np.float32))
    return {name: np.concatenate(parts) for name, parts in columns.items()}, np.concatenate(labels)


def _build(system: str, case: Case, tf: Any, keras: Any) -> Any:
    def mlp(units: tuple[int, ...], last: str | None) -> Any:
        activations = ["relu"] * (len(units) - 1) + [last]
        layers = [keras.layers.Dense(u, a) for u, a in zip(units, activations, strict=True)]
        return keras.Sequential(layers)

    class Tables(keras.layers.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.tables = [keras.layers.Embedding(rows, case.dim) for rows in case.table_rows]

        def call(self, columns: dict[str, Any]) -> dict[str, Any]:
            vectors = {}
            for k, table in enumerate(self.tables):
                rows = table(columns[f"t{k}"])
                if case.ragged:
                    rows = rows * columns[f"w{k}"][:, :, None]
                vectors[f"t{k}"] = tf.reduce_sum(rows, 1)
            return vectors

    if system == TFRS:
        import tensorflow_recommenders as tfrs

        model = tfrs.experimental.models.Ranking(
            embedding_layer=Tables(),
            bottom_stack=mlp(case.bottom, "relu"),
            top_stack=mlp(case.top, "sigmoid"),
        )
        return model

    class Dlrm(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.tables = Tables()
            self.bottom, self.top = mlp(case.bottom, "relu"), mlp(case.top, None)
            vectors = 1 + len(case.table_rows)
            square = np.tril(np.ones((vectors, vectors)), -1).reshape(-1)
            self.pairs = np.nonzero(square)[0].astype(np.int32).tolist()

        def call(self, columns: dict[str, Any]) -> Any:
            bottom = self.bottom(columns["dense"])
            vectors = tf.stack([bottom, *self.tables(columns).values()], 1)
            products = tf.matmul(vectors, vectors, transpose_b=True)
            flat = tf.reshape(products, [tf.shape(products)[0], vectors.shape[1] ** 2])
            pairs = tf.gather(flat, self.pairs, axis=1)
            return self.top(tf.concat([bottom, pairs], 1))

    return Dlrm()


def main(system: str, case: Case) -> None:
    """Builds the model and serves step times."""
    os.environ["TF_USE_LEGACY_KERAS"] = "0" if system == KERAS_3 else "1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    keras = tf.keras
    model = _build(system, case, tf, keras)
    kind = keras.optimizers.SGD if case.optimizer == "sgd" else keras.optimizers.Adagrad
    columns, labels = _padded(case)
    features: dict[str, Any] = dict(columns)
    if system == TFRS:
        dense = columns.pop("dense")
        features = {"dense_features": dense, "sparse_features": columns}
        model.compile(kind(LEARNING_RATE))
    else:
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        # XLA would update whole tables.
        model.compile(kind(LEARNING_RATE), loss, jit_compile=False)
    rows = tf.data.Dataset.from_tensor_slices((features, labels)).batch(case.batch)
    data = rows.cache().repeat().prefetch(2)
    score = tf.function(lambda batch: model(batch))
    batches = iter(data)

    def train(steps: int) -> float:
        history = model.fit(data, steps_per_epoch=steps, verbose=0).history
        return float(np.sum(history.get("loss") or history["total_loss"]))

    def infer(steps: int) -> float:
        for _ in range(steps):
            last = score(next(batches)[0])
        return float(last[0, 0])

    run: Callable[[int], float] = infer if case.inference else train
    serve(case, run)


if __name__ == "__main__":
    main(sys.argv[1], Case.from_json(sys.argv[2]))
