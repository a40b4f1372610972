"""How fast Criteo's text is converted and how fast the result is read.

```
python -m benchmarks.data --input=train.txt --repeat=10
```

Prints the median of several runs, with the fastest and the slowest, in rows a second. Reading is
timed without a model: the batches are made and dropped, inside TensorFlow.
"""

from __future__ import annotations

import collections
import io
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

from absl import app, flags

from tfrecords.conversion.convert import convert
from tfrecords.conversion.criteo import CriteoFormat
from tfrecords.conversion.options import Options
from tfrecords.progress import Progress
from tfrecords.reader import RecordSource

_INPUT = flags.DEFINE_string("input", None, "Criteo text.", required=True)
_REPEAT = flags.DEFINE_integer("repeat", 10, "Copies of the input, one after the other.")
_RUNS = flags.DEFINE_integer("runs", 5, "Runs of each measurement.", lower_bound=1)
_BATCH_SIZES = flags.DEFINE_list("batch_sizes", ["128", "2048", "16384"], "Batch sizes to read.")
_FOLDER = flags.DEFINE_string("folder", None, "Where temporary files go; default: the system's.")


def _measure(name: str, rows: int, runs: int, work: Callable[[int], None]) -> None:
    rates, processor = [], []
    for run in range(runs):
        start, used = time.perf_counter(), time.process_time()
        work(run)
        rates.append(rows / (time.perf_counter() - start))
        processor.append((time.process_time() - used) / rows * 1e6)
    sys.stdout.write(
        f"{name:36s} {statistics.median(rates):12,.0f} rows/s "
        f"({min(rates):,.0f} to {max(rates):,.0f}; {runs} runs), "
        f"{statistics.median(processor):.2f} us of processor a row\n"
    )
    sys.stdout.flush()


def main(argv: Sequence[str]) -> None:
    """Measures conversion, then reading."""
    del argv
    with tempfile.TemporaryDirectory(dir=_FOLDER.value) as folder:
        text = os.path.join(folder, "input.txt")
        content = pathlib.Path(_INPUT.value).read_bytes().rstrip(b"\n") + b"\n"
        with open(text, "wb") as file:
            for _ in range(_REPEAT.value):
                file.write(content)
        rows = content.count(b"\n") * _REPEAT.value
        sys.stdout.write(f"{rows:,} rows, {os.cpu_count()} cores\n")
        data_dir = os.path.join(folder, "set")

        def conversion(options: Options) -> Callable[[int], None]:
            return lambda run: _convert(text, data_dir, options)

        _measure(
            "convert, --shuffle=total", rows, _RUNS.value, conversion(Options(shuffle="total"))
        )
        _measure("convert", rows, _RUNS.value, conversion(Options()))
        source = RecordSource(data_dir)
        for batch_size in map(int, _BATCH_SIZES.value):
            for seed in (None, 1):
                name = f"read, {'shuffled' if seed else 'file order'}, batch {batch_size}"
                _measure(
                    name, source.rows("train"), _RUNS.value, _reading(source, batch_size, seed)
                )


def _convert(text: str, data_dir: str, options: Options) -> None:
    convert([text], data_dir, CriteoFormat(), options, Progress(io.StringIO()))


def _reading(source: RecordSource, batch_size: int, seed: int | None) -> Callable[[int], None]:
    def read(epoch: int) -> None:
        dataset = source.batches("train", batch_size, shuffle_seed=seed, epoch=epoch)
        # All but one are skipped within TensorFlow: made, but not handed to Python.
        collections.deque(dataset.skip(len(dataset) - 1), maxlen=0)

    return read


if __name__ == "__main__":
    app.run(main)
