"""The runs of a comparison, one after the other, each in a process of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from tf_dlrm.comparing.options import CompareOptions
from tf_dlrm.comparing.results import check_result, read_evaluations, read_json
from tf_dlrm.errors import UserError
from tf_dlrm.launching.child import tied_to_this_process
from tf_dlrm.options import commas
from tf_dlrm.training.options.config import OptimizerOptions, TrainingConfig
from tfrecords import files

_BEGUN, _RESULT, _LOG = "begun.json", "result.json", "log.txt"
# That a run has to write a checkpoint when the comparison is stopped.
_GRACE_SECONDS = 60.0
# Between two lines on how far a run is.
_SAY_SECONDS = 4.0
# The end of a log in which its last line is looked for, and how much of that is shown.
_TAIL_BYTES, _SHOWN = 4096, 160


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        model: Name of the model.
        optimizer: Name of the optimizer of tables and MLPs.
        seed: Its seed.
        config: All of its options; `model_dir` is its folder.
    """

    model: str
    optimizer: str
    seed: int
    config: TrainingConfig

    @property
    def name(self) -> str:
        """What messages call it, also its folder within the comparison's."""
        return f"{self.model}/{self.optimizer}/seed_{self.seed}"

    @property
    def folder(self) -> pathlib.Path:
        """Where its logs and its result are."""
        return pathlib.Path(self.config.run.model_dir)


def plan_runs(options: CompareOptions, common: TrainingConfig) -> list[Run]:
    """Returns all runs, seed by seed, so that an interrupted comparison has all models.

    Raises:
        UserError: If no model reads an option that is set, or options do not fit a model.
    """
    common.model.check_some_use(options.models)
    accumulator = common.optimizer.embedding_initial_accumulator
    if accumulator and "adagrad" not in options.optimizers:
        raise UserError(
            f"--embedding_initial_accumulator={accumulator} has no effect with any of "
            f"--optimizers={commas(options.optimizers)}; it is for adagrad."
        )
    runs = []
    for seed in options.seeds:
        for optimizer, rate in options.rates.items():
            for model in options.models:
                folder = pathlib.Path(options.output_dir, model, optimizer, f"seed_{seed}")
                config = dataclasses.replace(
                    common,
                    model=common.model.of_model(model),
                    optimizer=_with_optimizer(common.optimizer, optimizer, rate),
                    run=dataclasses.replace(common.run, model_dir=str(folder), seed=seed),
                )
                config.validate()
                runs.append(Run(model, optimizer, seed, config))
    return runs


def _with_optimizer(
    common: OptimizerOptions, optimizer: str, rate: float | None
) -> OptimizerOptions:
    own = dataclasses.replace(common, embedding_optimizer=optimizer, dense_optimizer=optimizer)
    if optimizer != "adagrad":
        own = dataclasses.replace(own, embedding_initial_accumulator=0.0)
    if rate is None:
        return own
    return dataclasses.replace(own, embedding_learning_rate=rate, dense_learning_rate=rate)


def train_all(runs: Sequence[Run], keep_models: bool, data: str = "") -> list[dict[str, Any]]:
    """Trains what has not been trained, and returns the results of all runs.

    Args:
        runs: The runs.
        keep_models: Whether checkpoints stay once a run has its result.
        data: A text that differs where the examples differ.

    Raises:
        UserError: If a run fails, or one was made with other options or data before, or what one
            left cannot be read.
    """
    results: list[dict[str, Any]] = []
    waiting = [run for run in runs if _finished(run, data) is None]
    for run in runs:
        if run in waiting:
            _check_begun(run)
        else:
            read_evaluations(run.folder)  # else it would be found when all have been trained
    start = time.monotonic()
    for run in runs:
        result = _finished(run, data)
        if result is None:
            done = len(waiting) - sum(_finished(other, data) is None for other in waiting)
            left = ""
            if done:
                seconds = (time.monotonic() - start) / done * (len(waiting) - done)
                left = f", about {seconds / 60:.0f} min left"
            sys.stderr.write(f"Run {len(results) + 1} of {len(runs)}: {run.name}{left}\n")
            result = _train(run)
            files.write_bytes(
                str(run.folder / _RESULT),
                json.dumps(
                    {"flags": _flags(run), "data": data, "result": result}, indent=1
                ).encode(),
            )
        if not keep_models:
            shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)
        results.append(result)
    return results


def _finished(run: Run, data: str) -> dict[str, Any] | None:
    """Returns the result of a run that was trained before, or None."""
    before = _read(run, _RESULT)
    if before is None:
        return None
    try:
        flags, result = before["flags"], before["result"]
        before_data = before.get("data", data)
    except (LookupError, TypeError):
        raise _unreadable(run, _RESULT) from None
    _check_same(run, flags, _RESULT)
    if before_data != data:
        raise UserError(
            f"{run.folder} holds a run on other data, which was converted anew since; use another "
            "--output_dir."
        )
    return check_result(result, run.folder / _RESULT)


def _check_begun(run: Run) -> None:
    """Refuses to go on from a checkpoint of other options, of which training checks but some."""
    if not (run.folder / "checkpoints" / "checkpoint").exists():
        return
    flags = _read(run, _BEGUN)
    if flags is not None:
        _check_same(run, flags, _BEGUN)


def _check_same(run: Run, flags: Any, name: str) -> None:
    if not isinstance(flags, list) or not all(isinstance(flag, str) for flag in flags):
        raise _unreadable(run, name)
    if flags != _flags(run):
        differing = sorted(set(flags) ^ set(_flags(run)))
        raise UserError(
            f"{run.folder} holds a run with other options ({', '.join(differing)}); use the same "
            "options or another --output_dir."
        )


def _read(run: Run, name: str) -> Any:
    try:
        return read_json(run.folder / name)
    except ValueError:
        raise _unreadable(run, name) from None


def _unreadable(run: Run, name: str) -> UserError:
    return UserError(
        f"{run.folder / name} does not say what was run; remove the folder to train it again."
    )


def _flags(run: Run) -> list[str]:
    return [flag for flag in run.config.to_flags() if not flag.startswith("--model_dir=")]


def _train(run: Run) -> dict[str, Any]:
    run.folder.mkdir(parents=True, exist_ok=True)
    files.write_bytes(str(run.folder / _BEGUN), json.dumps(_flags(run), indent=1).encode())
    log = run.folder / _LOG
    command = [sys.executable, "-m", "tf_dlrm.train", *run.config.to_flags()]
    with open(log, "ab") as errors, _termination_as_exit():
        begin = os.fstat(errors.fileno()).st_size
        start = time.monotonic()
        process = subprocess.Popen(
            tied_to_this_process(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            start_new_session=True,  # a terminal's Ctrl-C reaches it through us alone
        )
        try:
            output = None
            while output is None:
                try:
                    output, _ = process.communicate(timeout=_SAY_SECONDS)
                except subprocess.TimeoutExpired:  # what has come so far is not lost
                    seconds = time.monotonic() - start
                    last = _last_line(log, begin) or "it is starting"
                    sys.stderr.write(f"{run.name}, {seconds:.0f} s: {last}\n")
        except BaseException:
            process.terminate()  # it writes a checkpoint
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE_SECONDS)
            raise
        finally:
            process.kill()
            process.wait()
    if process.returncode:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        last = lines[-1] if lines else f"it ended with code {process.returncode}"
        raise UserError(f"The run {run.name} failed: {last} All it said is in {log}.")
    return dict(json.loads(output.splitlines()[-1]))


def _last_line(log: pathlib.Path, begin: int) -> str:
    """Returns the last line, without what would move a terminal's cursor, of a log from a byte."""
    with open(log, "rb") as file:
        file.seek(max(begin, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        text = file.read().decode("utf-8", "replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "".join(c if c.isprintable() else "?" for c in lines[-1][:_SHOWN]) if lines else ""


@contextlib.contextmanager
def _termination_as_exit() -> Iterator[None]:
    """SIGTERM raises SystemExit, so that what runs can be ended first."""

    def stop(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
