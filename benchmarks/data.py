"""How fast logs are converted, data sets are read and traces are made; against peers, in one run.

```
python -m benchmarks.data --input=train.txt --repeat=20 --peer_python=PYTHON --dlrm_dir=CHECKOUT
```

All work on copies of the same rows. Ours and the peers' take turns, so that they see the same
machine; printed are medians in rows a second (least and most), and the ratio of the medians to the
peer's. Reading is timed without a model: batches are made and dropped inside TensorFlow. The peers
run on the input as it is, not repeated: the preprocessing of the paper's code takes a minute for a
million rows.
"""

from __future__ import annotations

import collections
import functools
import io
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from absl import app, flags

from tfrecords.conversion.convert import convert
from tfrecords.conversion.criteo import CriteoFormat
from tfrecords.conversion.options import Options
from tfrecords.progress import Progress
from tfrecords.reader import RecordSource
from tfrecords.traces.distribution import Distribution
from tfrecords.traces.generator import TraceGenerator
from tfrecords.traces.stack_distance import stack_distances

_INPUT = flags.DEFINE_string("input", None, "Criteo text.", required=True)
_REPEAT = flags.DEFINE_integer("repeat", 10, "Copies of the input, one after the other.")
_RUNS = flags.DEFINE_integer("runs", 5, "Runs of each measurement.", lower_bound=1)
_BATCH_SIZES = flags.DEFINE_list("batch_sizes", ["128", "2048", "16384"], "Batch sizes to read.")
_FOLDER = flags.DEFINE_string("folder", None, "Where temporary files go; default: the system's.")
_PEER_PYTHON = flags.DEFINE_string("peer_python", None, "Python with torch, scikit-learn, polars.")
_DLRM_DIR = flags.DEFINE_string("dlrm_dir", None, "Checkout of facebookresearch/dlrm.")
_PARTS = flags.DEFINE_list("parts", ["conversion", "reading", "traces"], "What to measure.")

_HERE = pathlib.Path(__file__).parent
# A parsed Example takes about 20 times as long as a row of a block.
_EXAMPLE_ROWS = 100_000

# Does its work once and returns how many rows (or ids) that were, and the seconds.
_Work = Callable[[], tuple[int, float]]


def _timed(rows: int, work: Callable[[], object]) -> tuple[int, float]:
    start = time.perf_counter()
    work()
    return rows, time.perf_counter() - start


def _compare(title: str, unit: str, works: dict[str, _Work], peers: Sequence[str]) -> None:
    """Runs all in turns and prints a Markdown table.

    Args:
        title: Printed above it.
        unit: What is counted.
        works: Name to work.
        peers: The names of those that the others are compared with.
    """
    rates: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(_RUNS.value):
        for name, work in works.items():
            count, seconds = work()
            rates[name].append(count / seconds)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    header = ["", f"{unit}/s", *(f"times {peer}" for peer in peers)]
    lines = [f"\n{title} ({_RUNS.value} runs in turns)\n", "| " + " | ".join(header) + " |"]
    lines.append("|---" * len(header) + "|")
    for name, values in rates.items():
        cells = [name, f"{medians[name]:,.0f} ({min(values):,.0f} to {max(values):,.0f})"]
        cells += [f"{medians[name] / medians[peer]:.2f}" for peer in peers]
        lines.append("| " + " | ".join(cells) + " |")
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def _peer(what: str, path: str) -> _Work:
    command: list[str] = [_PEER_PYTHON.value or "", str(_HERE / "data_peers.py"), f"--what={what}"]
    command += [f"--input={path}", *([f"--dlrm_dir={_DLRM_DIR.value}"] if _DLRM_DIR.value else [])]

    def work() -> tuple[int, float]:
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        result = json.loads(done.stdout.splitlines()[-1])
        return result["rows"], result["seconds"]

    return work


def _conversion(text: str, rows: int, data_dir: str, options: Options) -> _Work:
    def work() -> tuple[int, float]:
        return _timed(
            rows,
            lambda: convert(
                [text], data_dir, CriteoFormat("kaggle"), options, Progress(io.StringIO())
            ),
        )

    return work


def measure_conversion(text: str, rows: int, data_dir: str) -> None:
    """Criteo's text to a data set, with vocabularies."""
    works = {
        "convert, --shuffle=total": _conversion(text, rows, data_dir, Options(shuffle="total")),
        "convert": _conversion(text, rows, data_dir, Options()),
    }
    peers = []
    if _PEER_PYTHON.value:
        peers = ["polars"]
        works["polars"] = _peer("polars", text)
        if _DLRM_DIR.value:
            peers.append("the paper's code")
            works["the paper's code"] = _peer("dlrm", _INPUT.value)
    _compare("Criteo's text to a data set; polars only parses it", "rows", works, peers)


def _reading(source: RecordSource, batch_size: int, seed: int | None) -> _Work:
    epochs = iter(range(1 << 30))

    def work() -> tuple[int, float]:
        dataset = source.batches("train", batch_size, shuffle_seed=seed, epoch=next(epochs))
        return _timed(source.rows("train"), lambda: _drain(dataset))

    return work


def _drain(dataset: tf.data.Dataset) -> None:
    # All but one are skipped within TensorFlow: made, but not handed to Python.
    collections.deque(dataset.skip(len(dataset) - 1), maxlen=0)


def _write_some_examples(source: RecordSource, folder: str) -> list[str]:
    """One Example a row, every column a feature of its own."""
    features, label = next(iter(source.batches("train", _EXAMPLE_ROWS)))
    dense, labels = features["dense"].numpy(), label.numpy()
    ids = {name: features[name].numpy() for name in source.schema.categorical_names}
    path = os.path.join(folder, "rows.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        for row in range(len(labels)):
            example = tf.train.Example()
            feature = example.features.feature
            feature[source.schema.label].float_list.value.append(labels[row])
            for number, name in enumerate(source.schema.dense):
                feature[name].float_list.value.append(dense[row, number])
            for name, column in ids.items():
                feature[name].int64_list.value.append(column[row])
            writer.write(example.SerializeToString())
    return [path]


def _parsing_examples(source: RecordSource, paths: list[str], batch_size: int) -> _Work:
    """As one reads row-per-Example files by the book: shuffle, batch, parse."""
    wanted = {source.schema.label: tf.io.FixedLenFeature([], tf.float32)}
    wanted.update({name: tf.io.FixedLenFeature([], tf.float32) for name in source.schema.dense})
    wanted.update(
        {name: tf.io.FixedLenFeature([], tf.int64) for name in source.schema.categorical_names}
    )

    def work() -> tuple[int, float]:
        dataset = (
            tf.data.TFRecordDataset(paths)
            .shuffle(16384)
            .batch(batch_size)
            .map(
                lambda rows: tf.io.parse_example(rows, wanted), num_parallel_calls=tf.data.AUTOTUNE
            )
            .prefetch(2)
        )
        rows = min(_EXAMPLE_ROWS, source.rows("train"))
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(-(-rows // batch_size)))
        return _timed(rows, lambda: _drain(dataset))

    return work


def measure_reading(data_dir: str, folder: str) -> None:
    """Reading, decoding, shuffling and batching."""
    source = RecordSource(data_dir)
    paths = _write_some_examples(source, folder)
    for batch_size in map(int, _BATCH_SIZES.value):
        works = {
            "blocks, file order": _reading(source, batch_size, None),
            "blocks, shuffled": _reading(source, batch_size, 1),
            "one Example a row": _parsing_examples(source, paths, batch_size),
        }
        _compare(f"Reading, batch {batch_size}", "rows", works, ["one Example a row"])


def _work(count: int, work: Callable[[], object]) -> _Work:
    return lambda: _timed(count, work)


def _generate(distribution: Distribution, count: int) -> np.ndarray:
    return TraceGenerator(distribution, seed=1).generate(count)


def measure_traces() -> None:
    """Stack distances of a million accesses over 100,000 ids, and new traces from them."""
    rng = np.random.default_rng(0)
    traces = {
        "uniform ids": rng.integers(1, 100_001, 1_000_000),
        "power law (Zipf 1.2)": np.minimum(rng.zipf(1.2, 1_000_000), 100_000),
    }
    works: dict[str, _Work] = {}
    for name, ids in traces.items():
        works[f"profile, {name}"] = _work(len(ids), functools.partial(stack_distances, ids))
        works[f"generate, {name}"] = _work(
            len(ids), functools.partial(_generate, Distribution.of_trace(ids), len(ids))
        )
    _compare("Traces: 1M accesses, up to 100k ids", "ids", works, [])


def main(argv: Sequence[str]) -> None:
    """Measures what is asked for."""
    del argv
    with tempfile.TemporaryDirectory(dir=_FOLDER.value) as folder:
        text, data_dir = os.path.join(folder, "input.txt"), os.path.join(folder, "set")
        content = pathlib.Path(_INPUT.value).read_bytes().rstrip(b"\n") + b"\n"
        with open(text, "wb") as file:
            for _ in range(_REPEAT.value):
                file.write(content)
        rows = content.count(b"\n") * _REPEAT.value
        sys.stdout.write(f"{rows:,} rows, {os.cpu_count()} cores\n")
        if "conversion" in _PARTS.value:
            measure_conversion(text, rows, data_dir)
        if "reading" in _PARTS.value:
            if not os.path.isdir(data_dir):
                _conversion(text, rows, data_dir, Options())()
            measure_reading(data_dir, folder)
    if "traces" in _PARTS.value:
        measure_traces()


if __name__ == "__main__":
    app.run(main)
