"""Progress of long work on standard error: steps, rows, rate, loss, time left."""

from __future__ import annotations

import datetime
import logging
import time

_LOG = logging.getLogger(__name__)


class Progress:
    """Logs a line every few seconds, and measures the rate of training alone.

    Args:
        total_steps: The step at which training ends.
        seconds_between_lines: Least time between two lines.
    """

    def __init__(self, total_steps: int, seconds_between_lines: float = 10.0) -> None:
        self._total_steps = total_steps
        self._seconds_between_lines = seconds_between_lines
        self._last_line = time.perf_counter()
        self._rows = 0
        self._steps = 0
        self._seconds = 0.0
        self._seconds_per_step = 0.0
        self._started = False
        self._only_traced = False

    def add(self, steps: int, rows: int, seconds: float, step: int, loss: float) -> None:
        """Counts `steps` steps of `rows` rows in all that took `seconds`, ending at `step`.

        The very first stretch includes tracing; it counts only until there is another.
        """
        if self._only_traced:
            self._rows = self._steps = 0
            self._seconds = 0.0
        self._only_traced = not self._steps and not self._started
        self._started = True
        self._rows += rows
        self._steps += steps
        self._seconds += seconds
        self._seconds_per_step = seconds / steps
        now = time.perf_counter()
        if now - self._last_line >= self._seconds_between_lines:
            self._last_line = now
            left = (self._total_steps - step) * self._seconds / self._steps
            _LOG.info(
                "step %d of %d, %.0f rows/s, loss %.5f, %s left",
                step,
                self._total_steps,
                self.rows_per_second,
                loss,
                datetime.timedelta(seconds=round(left)),
            )

    def steps_in(self, seconds: float) -> int:
        """About how many steps fit into so many seconds; 1 until a step has been timed."""
        if self._only_traced or not self._started:
            return 1
        return max(1, int(seconds / self._seconds_per_step))

    @property
    def rows_per_second(self) -> float:
        """Training rows a second so far, without evaluations and checkpoints; 0 before any."""
        return self._rows / self._seconds if self._seconds else 0.0
