"""One system that answers requests: ours, or a peer; `benchmarks.serving` starts it.

    python serving_worker.py saved_model FOLDER     any SavedModel, in a session of the C API
    python serving_worker.py pytorch CHECKOUT       the paper's code, in whichever form is fastest
    python serving_worker.py make tf_dlrm|tfrs FOLDER TABLE_DTYPE       writes a SavedModel to serve

A line of standard input, a batch size and a number of requests, is answered by a line: the median
and the 99th percentile of the milliseconds of a request.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

_HERE = Path(__file__).parent
sys.path[:0] = [str(_HERE), str(_HERE.parent)]

from step_cases import CASES, Case  # noqa: E402

KAGGLE = dataclasses.replace(CASES["Kaggle, batch 2048, SGD"], inference=True)
THREADS = 2
# Requests with other ids that take turns, so that not all rows are in the cache.
_REQUESTS = 16


def _columns(case: Case, seed: int) -> dict[str, np.ndarray]:
    """Returns a request by the names of our signature."""
    dense, values, _, _ = case.random_batch(seed)
    ids = {f"t{k}": column.astype(np.int64) for k, column in enumerate(values)}
    return {"dense": dense, **ids}


def _saved_model(folder: str) -> Callable[[int], Callable[[int], Any]]:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from serving_session import Session

    session = Session(folder, "serving_default", THREADS)

    def requests(batch: int) -> Callable[[int], Any]:
        case = dataclasses.replace(KAGGLE, batch=batch)
        tensors = [session.request(_columns(case, seed)) for seed in range(_REQUESTS)]
        return lambda k: session.run(tensors[k % _REQUESTS])

    return requests


def _pytorch(dlrm_dir: str) -> Callable[[int], Callable[[int], Any]]:
    import step_torch
    import torch

    torch.set_num_threads(THREADS)
    output, sys.stdout = sys.stdout, sys.stderr  # the reference prints
    model, _, _ = step_torch.reference(dataclasses.replace(KAGGLE, batch=1), dlrm_dir)
    sys.stdout = output
    model.eval()

    def inputs(batch: int, seed: int) -> Any:
        case = dataclasses.replace(KAGGLE, batch=batch)
        columns = _columns(case, seed)
        offsets = [torch.arange(batch) for _ in case.table_rows]
        ids = [torch.from_numpy(columns[f"t{k}"]) for k in range(len(case.table_rows))]
        return torch.from_numpy(columns["dense"]), offsets, ids

    def requests(batch: int) -> Callable[[int], Any]:
        own = [inputs(batch, seed) for seed in range(_REQUESTS)]
        with torch.inference_mode():
            traced = torch.jit.trace(model, own[0], check_trace=False)
            forms = {
                "eager": model,
                "scripted": torch.jit.freeze(traced),
                "compiled": torch.compile(model),
            }
            spent = {}
            for name, form in forms.items():
                call = functools.partial(_call, form, own)
                try:
                    _times(call, 50)
                    times = _times(call, 100)
                except Exception as error:  # what PyTorch cannot compile it need not run
                    sys.stderr.write(f"{name}: {type(error).__name__}\n")
                    continue
                spent[name] = float(np.median(times))
        fastest = forms[min(spent, key=lambda name: spent[name])]
        sys.stderr.write(f"PyTorch at batch {batch}, ms: {spent}\n")

        def run(k: int) -> Any:
            with torch.inference_mode():
                return fastest(*own[k % _REQUESTS])

        return run

    return requests


def _call(model: Callable[..., Any], requests: list[Any], k: int) -> Any:
    return model(*requests[k % len(requests)])


def _times(run: Callable[[int], Any], count: int) -> np.ndarray:
    times = np.empty(count)
    for k in range(count):
        start = time.perf_counter()
        run(k)
        times[k] = 1000 * (time.perf_counter() - start)
    return times


def _serve(requests: Callable[[int], Callable[[int], Any]]) -> None:
    made: dict[int, Callable[[int], Any]] = {}
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        batch, count = map(int, line.split())
        if batch not in made:
            made[batch] = requests(batch)
            _times(made[batch], 20)
        times = _times(made[batch], count)
        numbers = [float(np.percentile(times, q)) for q in (50, 99)]
        sys.stdout.write(" ".join(map(str, numbers)) + "\n")
        sys.stdout.flush()


def _make_tf_dlrm(folder: str, table_dtype: str) -> None:
    from tf_dlrm.embeddings.stores.frozen import FrozenTables
    from tf_dlrm.serving.export import export_model
    from tf_dlrm.training.build import build_model
    from tf_dlrm.training.options.config import ModelOptions, OptimizerOptions
    from tfrecords.schema import CategoricalColumn, Schema

    names = [f"t{k}" for k in range(len(KAGGLE.table_rows))]
    schema = Schema(
        dense=tuple(f"d{k}" for k in range(KAGGLE.dense)),
        categorical=tuple(map(CategoricalColumn, names, KAGGLE.table_rows)),
    )
    options = ModelOptions(embedding_dim=KAGGLE.dim, bottom_mlp=KAGGLE.bottom, top_mlp=KAGGLE.top)
    plan = FrozenTables(table_dtype)
    model = build_model(options, OptimizerOptions(), schema, seed=0, plan=plan)
    rng = np.random.default_rng(0)

    def rows(collection: int, table: str, start: int, count: int) -> np.ndarray:
        del collection, table, start
        return rng.uniform(-0.05, 0.05, (count, KAGGLE.dim)).astype(np.float32)

    export_model(model, schema, folder, {"step": 0}, rows=rows)


def _make_tfrs(folder: str) -> None:
    import step_keras
    import tensorflow as tf

    model = step_keras._build(step_keras.TFRS, KAGGLE, tf, tf.keras)
    specs = {"dense": tf.TensorSpec([None, KAGGLE.dense], tf.float32, "dense")}
    for k in range(len(KAGGLE.table_rows)):
        specs[f"t{k}"] = tf.TensorSpec([None], tf.int64, f"t{k}")

    @tf.function(input_signature=[specs])
    def serving_default(inputs: dict[str, Any]) -> dict[str, Any]:
        ids = {name: inputs[name][:, tf.newaxis] for name in specs if name != "dense"}
        scores = model({"dense_features": inputs["dense"], "sparse_features": ids}, training=False)
        return {"probability": tf.reshape(scores, [-1])}

    serving_default.get_concrete_function()
    tf.saved_model.save(model, folder, signatures={"serving_default": serving_default})


def main(system: str, *arguments: str) -> None:
    """Does what the module says."""
    if system == "make":
        os.environ["TF_USE_LEGACY_KERAS"] = "1"
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        kind, folder, table_dtype = arguments
        if kind == "tfrs":
            _make_tfrs(folder)
        else:
            _make_tf_dlrm(folder, table_dtype)
        return
    _serve({"saved_model": _saved_model, "pytorch": _pytorch}[system](*arguments))


if __name__ == "__main__":
    main(*sys.argv[1:])
