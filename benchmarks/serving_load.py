"""Load on a served model for long, with a new version every minute: what fails, and what grows.

    python -m benchmarks.serving_load --saved_model=EXPORT[,EXPORT] --minutes=30 --output=FOLDER

A real server, Triton (`pip install -e '.[servers]'`), serves the first SavedModel as version 1, and
every --reload_every_seconds a new version, of the two in turn, takes the place of the one before
while clients ask. Each answer is compared with the prediction of the SavedModel whose version
answered; anything else counts as a failure, as does an answer of a version that was out of service
when the request was sent.

FOLDER gets load.json and load.svg when it ends, also when it is interrupted: every few seconds the
requests answered, failures, latencies, version, and the memory of the server's own process and of
those of the model. One line of JSON sums it up.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks.serving_triton import Client, Triton, probabilities, request_body
from tfrecords.schema import Schema

_LOG = logging.getLogger(__name__)
_MODEL = "dlrm"
_TOLERANCE = 1e-6
_SECONDS_TO_LOAD = 120.0


def _define_flags() -> None:
    flags.DEFINE_list("saved_model", None, "An export, or two of the same model, comma-separated.")
    flags.DEFINE_float("minutes", 30.0, "How long.", lower_bound=0.1)
    flags.DEFINE_float("reload_every_seconds", 60.0, "Seconds between versions.", lower_bound=1.0)
    flags.DEFINE_float("sample_seconds", 5.0, "Seconds between samples.", lower_bound=0.5)
    flags.DEFINE_integer("clients", 4, "Clients that ask all the time.", lower_bound=1)
    flags.DEFINE_list("batch_sizes", ["1", "8", "64", "512"], "Rows of the requests, in turn.")
    flags.DEFINE_string("output", None, "Folder of load.json and load.svg.")
    flags.mark_flags_as_required(["saved_model", "output"])


@dataclasses.dataclass(frozen=True)
class _Request:
    """A request and what each SavedModel predicts for it."""

    body: bytes
    predictions: list[np.ndarray]


def _requests(saved_models: list[str], batch_sizes: list[int]) -> list[_Request]:
    """Returns random requests, by the schema that the export carries."""
    import tensorflow as tf

    run = json.loads((Path(saved_models[0]) / "assets.extra" / "run.json").read_text())
    schema = Schema.from_json(run["schema"])
    loaded = [tf.saved_model.load(path) for path in saved_models]
    rng = np.random.default_rng(0)
    requests = []
    for rows in batch_sizes * 3:
        inputs: dict[str, np.ndarray] = {}
        if schema.dense:
            inputs["dense"] = rng.exponential(size=(rows, len(schema.dense))).astype(np.float32)
        for column in schema.categorical:
            if column.hotness is None:
                lengths = rng.integers(0, 8, rows)
                inputs[f"{column.name}_row_lengths"] = lengths
                shape: tuple[int, ...] = (int(lengths.sum()),)
            else:
                shape = (rows,) if column.hotness == 1 else (rows, column.hotness)
            inputs[column.name] = rng.integers(0, column.vocabulary_size, shape)
        tensors = {name: tf.constant(value) for name, value in inputs.items()}
        predictions = [
            model.signatures["serving_default"](**tensors)["probability"].numpy()
            for model in loaded
        ]
        requests.append(_Request(request_body(inputs), predictions))
    return requests


class _Tally:
    """What the clients saw since the last sample.

    Attributes:
        oldest: Requests that are sent now must be answered by this version or a later one.
        failures: What went wrong, the first of each kind of failure.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._milliseconds: list[float] = []
        self._failed = 0
        self.oldest = 1
        self.failures: dict[str, str] = {}

    def add(self, milliseconds: float, failure: tuple[str, str] | None) -> None:
        """Counts a request; a failure is its kind and a sentence."""
        with self._lock:
            self._milliseconds.append(milliseconds)
            if failure is not None:
                self._failed += 1
                self.failures.setdefault(*failure)

    def take(self) -> tuple[list[float], int]:
        """Returns the latencies and the number of failures, and starts anew."""
        with self._lock:
            taken = self._milliseconds, self._failed
            self._milliseconds, self._failed = [], 0
        return taken


def _ask(
    port: int, requests: list[_Request], first: int, tally: _Tally, stop: threading.Event
) -> None:
    """One client, until `stop`."""
    with contextlib.closing(Client(port)) as client:
        for request in itertools.islice(itertools.cycle(requests), first, None):
            if stop.is_set():
                return
            oldest = tally.oldest
            start = time.perf_counter()
            try:
                status, answer = client.infer(_MODEL, request.body)
                failure = _failure(status, answer, request, oldest)
            except Exception as error:  # whatever it is, the request was not answered
                failure = (type(error).__name__, repr(error))
            tally.add(1000 * (time.perf_counter() - start), failure)


def _failure(
    status: int, answer: Mapping[str, Any], request: _Request, oldest: int
) -> tuple[str, str] | None:
    """Returns what is wrong with an answer, if anything is: its kind and a sentence."""
    if status != 200:
        return f"status {status}", str(answer)[:500]
    version = int(answer["model_version"])
    if version < oldest:
        return "old version", f"Version {version} answered when {oldest} was in service."
    wanted = request.predictions[(version - 1) % len(request.predictions)]
    given = probabilities(answer)
    if given.shape != wanted.shape or np.abs(given - wanted).max(initial=0.0) > _TOLERANCE:
        return "wrong answer", f"Version {version} answered something else than it predicts."
    return None


def _replace_version(server: Triton, saved_models: list[str], version: int, tally: _Tally) -> bool:
    """Publishes a version and waits until it alone is served; returns whether it was."""
    server.publish(saved_models[(version - 1) % len(saved_models)], _MODEL, version)
    end = time.monotonic() + _SECONDS_TO_LOAD
    with contextlib.closing(Client(server.http)) as client:
        while client.versions(_MODEL) != [version]:
            if time.monotonic() > end:
                return False
            time.sleep(0.1)
    tally.oldest = version
    if version > 1:
        server.retire(_MODEL, version - 1)
    return True


class _Reloads(threading.Thread):
    """Replaces the version again and again, until `stop`.

    Attributes:
        times: When each version was in service, in seconds from the start.
        missed: Versions that did not come into service in time, or what kept them from it.
    """

    def __init__(
        self, server: Triton, saved_models: list[str], tally: _Tally, stop: threading.Event
    ) -> None:
        super().__init__(daemon=True)
        self._server, self._saved_models, self._tally = server, saved_models, tally
        self._stopping = stop
        self.times: list[float] = []
        self.missed: list[str] = []

    def run(self) -> None:
        """Runs until it is stopped or a version is missed."""
        start = time.monotonic()
        every = flags.FLAGS.reload_every_seconds
        for version in itertools.count(2):
            due = start + every * (version - 1)
            if self._stopping.wait(max(0.0, due - time.monotonic())):
                return
            try:
                if not _replace_version(self._server, self._saved_models, version, self._tally):
                    self.missed.append(f"version {version} took longer than {_SECONDS_TO_LOAD} s")
                    return
            except Exception as error:
                if not self._stopping.is_set():
                    self.missed.append(f"version {version}: {error!r}")
                return
            self.times.append(time.monotonic() - start)


def _sample(
    server: Triton, tally: _Tally, seconds: float, period: float, version: int
) -> dict[str, Any]:
    latencies, failures = tally.take()
    p50, p99 = np.percentile(latencies, [50, 99]) if latencies else (0.0, 0.0)
    return {
        "seconds": round(seconds, 1),
        "requests": len(latencies),
        "requests_per_second": round(len(latencies) / period, 1),
        "failures": failures,
        "p50_ms": round(float(p50), 2),
        "p99_ms": round(float(p99), 2),
        **{name: round(value, 1) for name, value in server.resident_megabytes().items()},
        "version": version,
    }


def _load(
    server: Triton, saved_models: list[str], requests: list[_Request], stop: threading.Event
) -> dict[str, Any]:
    """Runs the load until its time is over or `stop`; returns what load.json holds."""
    values = flags.FLAGS
    tally = _Tally()
    done = threading.Event()
    reloads = _Reloads(server, saved_models, tally, done)
    threads = [
        threading.Thread(target=_ask, args=(server.http, requests, k, tally, done), daemon=True)
        for k in range(values.clients)
    ]
    series: list[dict[str, Any]] = []
    start = last = time.monotonic()
    for thread in (*threads, reloads):
        thread.start()
    try:
        while not stop.is_set() and not reloads.missed and server.process.poll() is None:
            left = start + 60 * values.minutes - time.monotonic()
            if left <= 0:
                break
            stop.wait(min(values.sample_seconds, left))
            now = time.monotonic()
            series.append(_sample(server, tally, now - start, now - last, tally.oldest))
            last = now
            _LOG.info("%s", json.dumps(series[-1]))
    finally:
        done.set()
        for thread in (*threads, reloads):
            thread.join()
    # Those that were under way at the end.
    latencies, failures = tally.take()
    if series:
        series[-1]["requests"] += len(latencies)
        series[-1]["failures"] += failures
    return {
        "clients": values.clients,
        "batch_sizes": [int(size) for size in values.batch_sizes],
        "reloads": [round(seconds, 1) for seconds in reloads.times],
        "missed_reloads": reloads.missed,
        "failures": tally.failures,
        "series": series,
    }


def _summary(result: Mapping[str, Any], interrupted: bool) -> dict[str, Any]:
    series = result["series"]
    # While a version is replaced there are two, which the least of a stretch leaves out.
    memory = [s["server_mb"] + s["models_mb"] for s in series]
    first, _, last = np.array_split(memory, 3)
    return {
        "minutes": round(series[-1]["seconds"] / 60, 2) if series else 0.0,
        "requests": sum(s["requests"] for s in series),
        "failures": sum(s["failures"] for s in series),
        "reloads": len(result["reloads"]),
        "missed_reloads": len(result["missed_reloads"]),
        "p50_ms": float(np.median([s["p50_ms"] for s in series])) if series else None,
        "highest_p99_ms": max((s["p99_ms"] for s in series), default=None),
        "least_mb_of_first_third": round(float(first.min()), 1) if first.size else None,
        "least_mb_of_last_third": round(float(last.min()), 1) if last.size else None,
        "highest_mb": max(memory, default=None),
        "interrupted": interrupted,
    }


def _draw(result: Mapping[str, Any], path: Path) -> None:
    """Draws latencies, rate and memory over time, with a line for each reload."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    series = result["series"]
    minutes = [s["seconds"] / 60 for s in series]
    figure = Figure(figsize=(9, 7), layout="constrained")
    FigureCanvasSVG(figure)
    latency, rate, memory = figure.subplots(3, sharex=True)
    for name, label in (("p50_ms", "median"), ("p99_ms", "99th percentile")):
        latency.plot(minutes, [s[name] for s in series], label=label)
    latency.set_yscale("log")
    latency.set_ylabel("latency, ms")
    rate.plot(minutes, [s["requests_per_second"] for s in series], label="answered")
    failed = [s["failures"] for s in series]
    rate.plot(minutes, failed, color="tab:red", label=f"failed: {sum(failed)} in all")
    rate.set_ylabel("requests a second")
    for name, label in (("models_mb", "model's processes"), ("server_mb", "server's process")):
        memory.plot(minutes, [s[name] for s in series], label=label)
    memory.set_ylabel("resident memory, MB")
    memory.set_xlabel("minutes")
    for axes in (latency, rate, memory):
        for seconds in result["reloads"]:
            axes.axvline(seconds / 60, color="0.85", linewidth=0.8, zorder=0)
        axes.legend(loc="upper right", fontsize=8)
    for axes in (rate, memory):
        axes.set_ylim(bottom=0)
    figure.savefig(path, format="svg")


def _write(result: Mapping[str, Any], output: Path) -> None:
    """Writes both files, each whole or not at all."""
    part = output / ".load.part"
    # The numbers first: they are there whatever becomes of the picture.
    part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    part.replace(output / "load.json")
    _draw(result, part)
    part.replace(output / "load.svg")


def main(argv: list[str]) -> None:
    """Runs the load, writes the files and prints the summary; status 1 if anything failed."""
    del argv
    values = flags.FLAGS
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    if len(values.saved_model) > 2:
        raise app.UsageError("--saved_model takes one or two folders.")
    output = Path(values.output)
    output.mkdir(parents=True, exist_ok=True)
    _LOG.info("Predicting what the server should answer.")
    requests = _requests(values.saved_model, [int(size) for size in values.batch_sizes])
    with tempfile.TemporaryDirectory() as folder:
        server = Triton(Path(folder) / "triton")
        server.publish(values.saved_model[0], _MODEL, 1)
        _LOG.info("Starting the server.")
        with server:
            result = _load(server, values.saved_model, requests, stop)
    summary = _summary(result, stop.is_set())
    _write({"summary": summary, **result}, output)
    sys.stdout.write(json.dumps(summary) + "\n")
    if summary["failures"] or summary["missed_reloads"]:
        sys.exit(1)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    _define_flags()
    app.run(main)
