"""A chief that has to finish, and servers that serve it."""

from __future__ import annotations

import collections
import signal
from typing import Any

from tf_dlrm.launching.child import Child
from tf_dlrm.launching.cluster import Task
from tf_dlrm.launching.job import Job


class ParameterServerJob(Job):
    """The chief has to finish; workers and parameter servers are ended after it.

    A worker that dies is started anew while training goes on. A parameter server that dies takes
    its rows with it, and so ends the job.
    """

    def __init__(self, *args: Any, restarts: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._restarts = restarts
        self._restarted: collections.Counter[Task] = collections.Counter()

    @property
    def _chief(self) -> Child:
        return self._children[self._tasks[0]]

    def _ended(self, child: Child) -> None:
        if child is self._chief:
            if child.exit_code and self._first_death is None and self._interruption is None:
                self._first_death = child
            self._stop(self._running(), signal.SIGTERM)
        elif not self._chief.running or self._first_death or self._interruption:
            pass  # the job is ending anyway
        elif child.task.role == "ps":
            self._fail(child)
        elif child.exit_code and self._restarted[child.task] < self._restarts:
            self._restarted[child.task] += 1
            self._screen.say(
                f"{child.task.name} {child.ending}; training goes on, and it is restarted "
                f"({self._restarted[child.task]} of {self._restarts})."
            )
            self._start(child.task)
        elif self._running("worker"):
            self._screen.say(
                f"{child.task.name} {child.ending}, and is not restarted; training goes on with "
                f"{len(self._running('worker'))} of "
                f"{sum(task.role == 'worker' for task in self._tasks)} workers."
            )
        else:
            self._screen.say("No worker is left.")
            self._fail(child)

    def _interrupted(self, number: int) -> None:
        # The chief alone for now: to write a checkpoint it needs the servers, which get their
        # signal when it has ended.
        if self._chief.running:
            self._stop([self._chief], signal.SIGTERM if number == signal.SIGHUP else number)

    def _exit_code(self) -> int:
        chief = self._chief
        if not chief.exit_code and (self._first_death is None or not chief.signalled):
            return 0
        if self._first_death:
            return self._first_death.exit_code or 1
        return 128 + self._interruption if self._interruption else chief.exit_code
