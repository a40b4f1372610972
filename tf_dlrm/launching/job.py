"""Processes that begin and end together: what all kinds of jobs share."""

from __future__ import annotations

import functools
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

from tf_dlrm.errors import UserError
from tf_dlrm.launching.child import Child, Pipe
from tf_dlrm.launching.cluster import Task
from tf_dlrm.launching.screen import Screen
from tf_dlrm.launching.signals import Signals


class Job:
    """Starts a process for each task, shows what they print, and ends when all have ended.

    Here every process needs every other: all have to finish, and the first that dies ends the job.

    Standard output of the first task is the job's; all else goes to standard error, each line
    after the label of its process.

    Args:
        tasks: the processes; the first is the one whose result counts.
        command: program and arguments, the same for all.
        environment: gives the environment variables of a task.
        grace_seconds: how long a process may take to end, both after another has died and after a
            signal, before it is ended by force.
        screen: where lines go.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        command: Sequence[str],
        environment: Callable[[Task], Mapping[str, str]],
        grace_seconds: float,
        screen: Screen,
    ) -> None:
        self._tasks = tasks
        self._command = command
        self._environment = environment
        self._grace = grace_seconds
        self._screen = screen
        self._children: dict[Task, Child] = {}
        self._selector = selectors.DefaultSelector()
        self._first_death: Child | None = None
        self._interruption: int | None = None

    def run(self) -> int:
        """Runs the job to its end.

        Returns:
            The exit code: 0 only if every process that had to finish has; else that of the process
            that died first, or 128 + the number of the signal that stopped the job.

        Raises:
            UserError: if a process cannot be started; none is left then.
        """
        with self._selector, Signals() as signals:
            self._selector.register(signals, selectors.EVENT_READ)
            try:
                for task in self._tasks:
                    self._start(task)
                while self._running():
                    self._step(signals)
            finally:
                # Only after an exception is there anything left to do.
                for child in self._running():
                    child.kill()
                    self._finish(child)
        if self._first_death:
            self._report_death(self._first_death)
        code = self._exit_code()
        return 1 if not code and self._screen.result_was_lost else code

    def _ended(self, child: Child) -> None:
        """Decides what the end of a child means for the others."""
        if child.exit_code and self._first_death is None and self._interruption is None:
            self._fail(child)

    def _interrupted(self, number: int) -> None:
        """Passes on a signal that asks the job to stop; called once at most."""
        self._stop(self._running(), signal.SIGTERM if number == signal.SIGHUP else number)

    def _exit_code(self) -> int:
        """The exit code, when all have ended."""
        if self._first_death:
            return self._first_death.exit_code
        if self._interruption and any(child.exit_code for child in self._children.values()):
            return 128 + self._interruption
        return 0

    def _start(self, task: Task) -> None:
        label, screen = task.label, self._screen
        log = functools.partial(screen.log, label)
        try:
            child = Child(
                task,
                self._command,
                self._environment(task),
                stdout=screen.result if task == self._tasks[0] else log,
                stderr=log,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise UserError(f"Could not start {task.name}: {error}.") from error
        self._children[task] = child
        for pipe in child.pipes:
            self._selector.register(pipe, selectors.EVENT_READ, pipe)
        screen.say(f"{task.name} is process {child.pid}, at {task.address}.")

    def _running(self, role: str | None = None) -> list[Child]:
        return [
            child
            for child in self._children.values()
            if child.running and role in (None, child.task.role)
        ]

    def _stop(self, children: Sequence[Child], number: int, after: float = 0.0) -> None:
        """Has children end: by a signal after some seconds, by SIGKILL if they stay after it."""
        stop_at = time.monotonic() + after
        for child in children:
            if not child.signalled and (child.stop_at is None or stop_at < child.stop_at):
                child.stop_at, child.stop_signal = stop_at, signal.Signals(number)
                child.kill_at = stop_at + self._grace

    def _fail(self, child: Child) -> None:
        """Ends the job because of a child's death; the others may first say what it did to them."""
        self._first_death = child
        if self._running():
            self._screen.say(
                f"{child.task.name} {child.ending}; the others have {self._grace:g} seconds to "
                "end by themselves."
            )
        self._stop(self._running(), signal.SIGTERM, after=self._grace)

    def _report_death(self, child: Child) -> None:
        others = [each for each in self._children.values() if each is not child]
        sentence = f"{child.task.name} died first: it {child.ending}."
        if others:
            endings = ", ".join(f"{each.task.name} {each.ending}" for each in others)
            sentence += f" After it, {endings}."
        self._screen.say(sentence)

    def _step(self, signals: Signals) -> None:
        for key, _ in self._selector.select(self._seconds_to_deadline()):
            if isinstance(key.data, Pipe):
                key.data.read()
                if key.data.at_end:
                    self._selector.unregister(key.data)
        for number in signals.take_stops():
            if self._interruption is None:
                self._interruption = number
                self._screen.say(
                    f"{signal.Signals(number).name} came: the job has {self._grace:g} seconds "
                    "to end."
                )
                self._interrupted(number)
        self._enforce_deadlines()
        self._reap()

    def _seconds_to_deadline(self) -> float | None:
        deadlines = [
            moment
            for child in self._running()
            for moment, done in ((child.stop_at, child.signalled), (child.kill_at, child.killed))
            if moment is not None and not done
        ]
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

    def _enforce_deadlines(self) -> None:
        now = time.monotonic()
        for child in self._running():
            if child.stop_at is not None and child.stop_at <= now and not child.signalled:
                child.signalled = True
                child.send(child.stop_signal)
            if child.kill_at is not None and child.kill_at <= now and not child.killed:
                self._screen.say(
                    f"{child.task.name} did not end within {self._grace:g} seconds of "
                    f"{child.stop_signal.name}, and is killed."
                )
                child.kill()

    def _reap(self) -> None:
        ended = [child for child in self._running() if child.has_ended()]
        for child in ended:
            self._finish(child)
        # Of those that seem to have ended at once, one that was killed was the cause: the others
        # have noticed.
        for child in sorted(ended, key=lambda child: not child.was_killed):
            self._ended(child)

    def _finish(self, child: Child) -> None:
        for pipe in child.pipes:
            if not pipe.at_end:
                self._selector.unregister(pipe)
        child.finish()
