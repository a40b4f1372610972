"""A process of its own for each system that is timed."""

from __future__ import annotations

import subprocess
from pathlib import Path

_HERE = Path(__file__).parent


class Worker:
    """A process that answers numbers of steps with milliseconds a step."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_HERE.parent
        )
        if self._read() != "ready":
            raise RuntimeError(f"{command} did not start.")

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def milliseconds(self, steps: int) -> float:
        """Lets the process do so many steps; returns the milliseconds of one."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        return float(self._read())

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
