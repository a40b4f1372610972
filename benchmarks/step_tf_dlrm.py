"""Ours: the compiled training steps of `tf_dlrm.train`, and the logits of its evaluations.

python step_tf_dlrm.py CASE [float32|bfloat16]
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from step_cases import LEARNING_RATE, Case, serve


def _batches(case: Case, names: list[str]) -> Iterator[Any]:
    import tensorflow as tf

    whole = None
    for dense, values, lengths, labels in case.batches():
        columns: dict[str, Any] = {"dense": tf.constant(dense)}
        for name, ids, own, most in zip(names, values, lengths, case.ids, strict=True):
            if case.ragged:
                columns[name] = tf.RaggedTensor.from_row_lengths(ids, own)
            else:
                columns[name] = tf.constant(ids.reshape((-1, most) if most > 1 else (-1,)))
        rows = tf.data.Dataset.from_tensors((columns, tf.constant(labels)))
        whole = rows if whole is None else whole.concatenate(rows)
    assert whole is not None
    return iter(whole.cache().repeat().prefetch(2))


def main(case: Case, compute_dtype: str = "float32") -> None:
    """Builds the model and serves step times."""
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.path.insert(0, str(Path(__file__).parent.parent))
    import tensorflow as tf

    from tf_dlrm.training.build import build_dense_optimizer, build_model
    from tf_dlrm.training.options.config import ModelOptions, OptimizerOptions
    from tf_dlrm.training.steps import make_logits, make_training_steps
    from tfrecords.schema import CategoricalColumn, Schema

    names = [f"t{k}" for k in range(len(case.table_rows))]
    schema = Schema(
        dense=tuple(f"d{k}" for k in range(case.dense)),
        categorical=tuple(map(CategoricalColumn, names, case.table_rows)),
    )
    model_options = ModelOptions(
        embedding_dim=case.dim,
        bottom_mlp=case.bottom,
        top_mlp=case.top,
        compute_dtype=compute_dtype,
    )
    options = OptimizerOptions(
        embedding_optimizer=case.optimizer,
        embedding_learning_rate=LEARNING_RATE,
        dense_optimizer="sgd" if case.optimizer == "sgd" else "adagrad",
        dense_learning_rate=LEARNING_RATE,
    )
    model = build_model(model_options, options, schema, seed=0)
    optimizer = build_dense_optimizer(options, model)
    batches = _batches(case, names)
    training_steps = make_training_steps(model, optimizer)
    logits = make_logits(model)

    def train(steps: int) -> float:
        return float(training_steps(batches, tf.constant(steps)))

    def infer(steps: int) -> float:
        for _ in range(steps):
            last = logits(next(batches)[0])
        return float(last[0])

    serve(case, infer if case.inference else train)


if __name__ == "__main__":
    main(Case.from_json(sys.argv[1]), *sys.argv[2:])
