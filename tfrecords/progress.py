"""Progress for people, on standard error."""

from __future__ import annotations

import sys
import time
from typing import TextIO

_SECONDS_BETWEEN = 2.0


class Progress:
    """Prints how far a long piece of work is, at most every two seconds.

    Args:
        stream: Where to print; None for standard error.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._what = ""
        self._total = 0
        self._start = self._last = 0.0

    def say(self, text: str) -> None:
        """Prints a line."""
        print(text, file=self._stream, flush=True)

    def begin(self, what: str, total: int) -> None:
        """Begins a stage.

        Args:
            what: For example "Parsing".
            total: How much there is to do, in any unit.
        """
        self._what, self._total = what, total
        self._start = self._last = time.monotonic()

    def update(self, done: int, rows: int) -> None:
        """Tells how far the stage is.

        Args:
            done: How much of the total is done.
            rows: How many rows that is.
        """
        now = time.monotonic()
        if now - self._last < _SECONDS_BETWEEN or not done:
            return
        self._last = now
        seconds = now - self._start
        left = max(0.0, seconds / done * (self._total - done))
        self.say(f"{self._what}: {rows:,} rows, {rows / seconds:,.0f} rows/s, {left:.0f} s left.")

    def end(self, rows: int) -> None:
        """Ends the stage, in which `rows` rows were worked on."""
        seconds = max(time.monotonic() - self._start, 1e-9)
        self.say(f"{self._what}: {rows:,} rows, {rows / seconds:,.0f} rows/s, {seconds:.1f} s.")
