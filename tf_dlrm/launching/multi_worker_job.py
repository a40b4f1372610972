"""Workers that are all equal and need each other."""

from __future__ import annotations

import signal

from tf_dlrm.launching.child import Child
from tf_dlrm.launching.job import Job


class MultiWorkerJob(Job):
    """Every worker has to finish; the first that dies ends the job."""

    def _ended(self, child: Child) -> None:
        if child.exit_code and self._first_death is None and self._interruption is None:
            self._fail(child)

    def _interrupted(self, number: int) -> None:
        number = signal.SIGTERM if number == signal.SIGHUP else number
        self._stop(self._running(), number)

    def _exit_code(self) -> int:
        if self._first_death:
            return self._first_death.exit_code
        if self._interruption and any(child.exit_code for child in self._children.values()):
            return 128 + self._interruption
        return 0
