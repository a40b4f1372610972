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
        finished = done >= self._total
        if not rows or (now - self._last < _SECONDS_BETWEEN and not finished):
            return
        self._last = now
        seconds = max(now - self._start, 1e-9)
        text = f"{self._what}: {rows:,} rows, {rows / seconds:,.0f} rows/s"
        if finished:
            # Reported once: the stage is over.
            self._total = sys.maxsize
            self.say(f"{text}, {seconds:.1f} s.")
        elif done:
            self.say(f"{text}, {seconds / done * (self._total - done):.0f} s left.")
