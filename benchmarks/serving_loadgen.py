"""MLPerf's load generator drives an exported model: scenarios Server and Offline.

    pip install mlcommons-loadgen
    python -m benchmarks.serving_loadgen --saved_model=DIR --data_dir=DATASET --output=FOLDER

The rows are those of the data set's evaluation split, one a sample. In Server, queries of one
sample come at random times, `--target_qps` a second on average, and 99 % must be answered within
60 ms, MLPerf's bound for DLRM; threads take all that wait, up to `--largest_batch`. In Offline all
samples come at once. FOLDER/SCENARIO gets the generator's own files, the summary is printed. Not a
submission: the model, the data and the seconds are not those of the benchmark's rules.
"""

from __future__ import annotations

import array
import os
import queue
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks.serving_session import Session

_LATENCY_NS = 60_000_000


def _define_flags() -> None:
    flags.DEFINE_string("saved_model", None, "Folder of the SavedModel.", required=True)
    flags.DEFINE_string("data_dir", None, "Data set folder that it was trained on.", required=True)
    flags.DEFINE_string("output", None, "Folder of the results.", required=True)
    flags.DEFINE_list("scenarios", ["Server", "Offline"], "Scenarios.")
    flags.DEFINE_integer("target_qps", 2000, "Queries a second in Server.", lower_bound=1)
    flags.DEFINE_integer("offline_qps", 50_000, "Expected samples a second.", lower_bound=1)
    flags.DEFINE_integer("seconds", 60, "Least duration of a scenario.", lower_bound=1)
    flags.DEFINE_integer("largest_batch", 2048, "Samples scored together.", lower_bound=1)
    flags.DEFINE_integer("workers", 2, "Threads that score.", lower_bound=1)


def _rows(data_dir: str) -> dict[str, np.ndarray]:
    """Returns the evaluation rows by the names of the signature."""
    from tf_dlrm.serving.signatures import named_inputs
    from tfrecords.reader import RecordSource

    parts: dict[str, list[np.ndarray]] = {}
    for features, _ in RecordSource(data_dir).batches("evaluation", 16384):
        for name, value in named_inputs(features).items():
            parts.setdefault(name, []).append(value.numpy())
    return {name: np.concatenate(values) for name, values in parts.items()}


class Server:
    """Threads that answer what the load generator asks."""

    def __init__(self, session: Session, rows: dict[str, np.ndarray], largest_batch: int) -> None:
        self._session, self._rows, self._largest = session, rows, largest_batch
        self._waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def start(self, workers: int) -> list[threading.Thread]:
        """Starts the threads; `stop` ends them."""
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(workers)]
        for thread in threads:
            thread.start()
        return threads

    def stop(self, threads: list[threading.Thread]) -> None:
        """Ends the threads."""
        for _ in threads:
            self._waiting.put(None)
        for thread in threads:
            thread.join()

    def issue(self, samples: list[Any]) -> None:
        """Takes queries: many samples at once are cut into batches."""
        pairs = [(sample.id, sample.index) for sample in samples]
        for start in range(0, len(pairs), self._largest):
            self._waiting.put(pairs[start : start + self._largest])

    def _work(self) -> None:
        import mlperf_loadgen

        while (pairs := self._waiting.get()) is not None:
            while len(pairs) < self._largest:
                try:
                    more = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    self._waiting.put(None)
                    break
                pairs = pairs + more
            chosen = np.array([index for _, index in pairs])
            request = self._session.request({k: v[chosen] for k, v in self._rows.items()})
            scores = array.array("f", self._session.run(request).tolist())
            self._session.free(request)
            address, _ = scores.buffer_info()
            mlperf_loadgen.QuerySamplesComplete(
                [
                    mlperf_loadgen.QuerySampleResponse(query, address + 4 * k, 4)
                    for k, (query, _) in enumerate(pairs)
                ]
            )


def _run(scenario: str, server: Server, count: int) -> str:
    """Returns the generator's summary."""
    import mlperf_loadgen as loadgen

    values = flags.FLAGS
    settings = loadgen.TestSettings()
    settings.scenario = getattr(loadgen.TestScenario, scenario)
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = 1000 * values.seconds
    settings.server_target_qps = values.target_qps
    settings.server_target_latency_ns = _LATENCY_NS
    settings.server_target_latency_percentile = 0.99
    settings.offline_expected_qps = values.offline_qps
    folder = Path(values.output) / scenario
    folder.mkdir(parents=True, exist_ok=True)
    output = loadgen.LogOutputSettings()
    output.outdir = str(folder)
    log = loadgen.LogSettings()
    log.log_output = output
    log.enable_trace = False
    threads = server.start(values.workers)
    system = loadgen.ConstructSUT(server.issue, lambda: None)
    # All rows are in memory from the beginning.
    library = loadgen.ConstructQSL(count, count, lambda _: None, lambda _: None)
    loadgen.StartTestWithLogSettings(system, library, settings, log)
    loadgen.DestroyQSL(library)
    loadgen.DestroySUT(system)
    server.stop(threads)
    return (folder / "mlperf_log_summary.txt").read_text()


def main(argv: list[str]) -> None:
    """Runs the scenarios and prints their summaries."""
    del argv
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    values = flags.FLAGS
    rows = _rows(values.data_dir)
    count = len(rows["dense"])
    session = Session(values.saved_model, "serving_default", threads=1, between=1)
    for batch in (1, 2, values.largest_batch):
        session.run(
            session.request({k: np.resize(v, (batch, *v.shape[1:])) for k, v in rows.items()})
        )
    for scenario in values.scenarios:
        sys.stdout.write(_run(scenario, Server(session, rows, values.largest_batch), count) + "\n")


if __name__ == "__main__":
    _define_flags()
    app.run(main)
