"""A process of its own for each system that is timed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

_HERE = Path(__file__).parent


class Worker:
    """A process that answers numbers of steps with milliseconds a step."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
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
        return self.numbers(steps)[0]

    def numbers(self, steps: int) -> list[float]:
        """Lets the process do so many steps; returns all that it says of the time of one."""
        return self.ask(str(steps))

    def ask(self, line: str) -> list[float]:
        """Gives the process a line; returns the numbers of its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        answer = self._read()
        if not answer:
            raise RuntimeError(f"{self._command} ended.")
        return [float(number) for number in answer.split()]

    def peak_bytes(self) -> int:
        """Returns the most memory that the process has had resident."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found is not None
        return 1024 * int(found[1])

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
