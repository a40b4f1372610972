"""Runs `python -m MODULE FLAGS` in a copy of a process that has imported TensorFlow already.

Each command has a process of its own, so that it may die, hang, or be given little memory or disk;
only the imports, three to eight CPU seconds, are done once. The copies are made before TensorFlow
has threads, which no copy would have.

As a program this is that process: it reads a request, one line of JSON, and answers with another.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import importlib
import json
import os
import pathlib
import resource
import runpy
import selectors
import signal
import struct
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping
from typing import Any

_ROOT = str(pathlib.Path(__file__).parents[2])
_KILLED_AFTER = 60
_PRELOADED = (
    "pyarrow.csv",
    "pyarrow.parquet",
    "tf_dlrm.comparing.runs",
    "tf_dlrm.planner",
    "tf_dlrm.serving.exporting",
    "tf_dlrm.serving.increment",
    "tf_dlrm.training.evaluation.assessment",
    "tf_dlrm.training.run",
    "tfrecords.conversion.convert",
    "tfrecords.conversion.criteo",
    "tfrecords.conversion.tabular",
    "tfrecords.traces.source",
)


@dataclasses.dataclass(frozen=True)
class Done:
    """What a command left: exit code, output, errors; CPU seconds, and its longest silence."""

    code: int
    out: str
    err: str
    cpu_seconds: float
    silence: float


class Forking:
    """The process that is copied."""

    def __init__(self) -> None:
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_USE_LEGACY_KERAS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_ROOT,
            env=environment,
            text=True,
        )

    def run(
        self,
        module: str,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        limits: Mapping[str, int] | None = None,
        out: str = "",
    ) -> Done:
        """Runs a command to its end.

        Args:
            module: As after `python -m`.
            arguments: Its flags.
            environment: Variables beside those of the tests.
            limits: Of `resource.setrlimit`, by the name behind `RLIMIT_`.
            out: A file in place of standard output; "closed" for none.
        """
        request = {
            "module": module,
            "arguments": [str(argument) for argument in arguments],
            "environment": dict(environment or {}),
            "limits": dict(limits or {}),
            "out": out,
        }
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Done(**json.loads(self._process.stdout.readline()))

    def end(self) -> None:
        """Ends the process."""
        self._process.communicate()


def _serve() -> None:
    sys.path[0] = _ROOT  # as `python -m` has it
    import_what_defines_no_flags()
    gc.collect()
    gc.freeze()  # no copy looks through what all share
    answers = os.dup(1)
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        out, err = os.pipe(), os.pipe()
        child = os.fork()
        if not child:
            os.close(answers)
            os.setsid()
            _become(request, out[1], err[1])
            return
        os.close(out[1])
        os.close(err[1])
        answer = json.dumps(_watched(child, out[0], err[0])) + "\n"
        os.write(answers, answer.encode())


def import_what_defines_no_flags() -> None:
    """Imports TensorFlow, Keras, and what commands use; each command defines its own flags."""
    import tensorflow as tf
    from absl import flags

    tf.keras.Model  # noqa: B018, which imports Keras
    for module in _PRELOADED:
        importlib.import_module(module)
    ours = [m for m in flags.FLAGS.flags_by_module_dict() if m.startswith(("tf_dlrm", "tfrecords"))]
    assert not ours, ours


def _become(request: dict[str, Any], out: int, err: int) -> None:
    """Makes this process the command's."""
    if request["out"] == "closed":
        os.close(1)
    else:
        target = os.open(request["out"], os.O_WRONLY | os.O_CREAT) if request["out"] else out
        os.dup2(target, 1)
    os.dup2(err, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(request["environment"])
    _let_permissions_count()
    for name, limit in request["limits"].items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))
    # Where `python -m` would close them itself, so that a full disk is found there.
    sys.stdout = open(1, "w", closefd=False) if request["out"] != "closed" else None
    sys.stderr = open(2, "w", buffering=1, closefd=False)
    sys.argv = [request["module"], *request["arguments"]]
    # That a module has been imported already, as others' libraries.
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="runpy")
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


def _let_permissions_count() -> None:
    """Gives up what lets root read and write files of any mode, where this is root."""
    library = ctypes.CDLL(None)
    header = struct.pack("Ii", 0x20080522, 0)
    sets = ctypes.create_string_buffer(24)
    if library.capget(header, sets) == 0:
        effective, *others = struct.unpack("6I", sets.raw)
        # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
        library.capset(header, struct.pack("6I", effective & ~0b110, *others))


def _watched(child: int, out: int, err: int) -> dict[str, Any]:
    """Reads all that a process writes until it ends, and when."""
    start = last = time.monotonic()
    silence = 0.0
    texts = {out: b"", err: b""}
    with selectors.DefaultSelector() as selector:
        for descriptor in texts:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select(1.0):
                data = os.read(key.fd, 1 << 16)
                now = time.monotonic()
                silence, last = max(silence, now - last), now
                texts[key.fd] += data
                if not data:
                    selector.unregister(key.fd)
            if time.monotonic() - start > _KILLED_AFTER:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child, signal.SIGKILL)
                break
    _, status, used = os.wait4(child, 0)
    now = time.monotonic()
    os.close(out)
    os.close(err)
    return {
        "code": os.waitstatus_to_exitcode(status),
        "out": texts[out].decode(errors="replace"),
        "err": texts[err].decode(errors="replace"),
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "silence": max(silence, now - last),
    }


if __name__ == "__main__":
    _serve()
