"""Starts commands in copies of a process that has imported TensorFlow already.

Each is a process of its own, which can be killed; only its imports, some four CPU seconds, are
done once. The copies are made before TensorFlow has threads, which no copy would have.

As a program this is that process: it reads a request, one line of JSON, and answers with the
process id of the command, and at its end with its exit code, a line each.
"""

from __future__ import annotations

import json
import os
import pathlib
import runpy
import select
import signal
import subprocess
import sys
import warnings
from collections.abc import Sequence

from forked import import_what_defines_no_flags

_ROOT = str(pathlib.Path(__file__).parents[2])


class Preloaded:
    """The process that is copied; it has one copy at a time."""

    def __init__(self) -> None:
        environment = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
        settings = {"PYTHONPATH": _ROOT, "TF_CPP_MIN_LOG_LEVEL": "3", "TF_USE_LEGACY_KERAS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # so that `select` sees every line
            env=environment | settings,
        )

    def start(self, line: Sequence[str], folder: pathlib.Path, out: str, errors: str) -> int:
        """Starts `python -m LINE` in a folder, its output going to files; returns its id."""
        request = {"line": list(line), "folder": str(folder), "out": out, "errors": errors}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        return self._answer()

    def exit_code(self, seconds: float) -> int | None:
        """Waits for the end of the command at most so long; returns its code, or None."""
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        return self._answer() if ready else None

    def _answer(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def end(self) -> None:
        """Ends the process."""
        self._process.communicate()


def _serve() -> None:
    sys.path[0] = _ROOT
    import_what_defines_no_flags()
    answers = os.dup(1)
    for text in sys.stdin:
        child = os.fork()
        if not child:
            _become(**json.loads(text))
            return
        os.write(answers, b"%d\n" % child)
        _, status = os.waitpid(child, 0)
        os.write(answers, b"%d\n" % os.waitstatus_to_exitcode(status))


def _become(line: list[str], folder: str, out: str, errors: str) -> None:
    os.setsid()
    os.chdir(folder)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, path in ((1, out), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    # A background job of a shell ignores it, and so would what it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)
    sys.argv = line
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="runpy")
    runpy.run_module(line[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _serve()
