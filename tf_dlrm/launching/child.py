"""One child process: started so that it cannot outlive the launcher, read line by line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import IO

from tf_dlrm.launching import tied
from tf_dlrm.launching.cluster import Task

_READ_BYTES = 65_536
# A program that never ends its line must not fill the memory.
_LONGEST_LINE = 1 << 20
# Linux lets a pipe hold at most so much without privileges; more was not written by the child.
_PIPE_BYTES = 1 << 20


class Pipe:
    """One output stream of a child."""

    def __init__(self, file: IO[bytes], write: Callable[[bytes], None]) -> None:
        self._file = file
        self._write = write
        self._rest = b""
        self.at_end = False
        os.set_blocking(file.fileno(), False)

    def fileno(self) -> int:
        """The descriptor, for `selectors`."""
        return self._file.fileno()

    def read(self) -> bool:
        """Hands on the lines that have come; returns False if there was nothing to read."""
        try:
            data = os.read(self.fileno(), _READ_BYTES)
        except BlockingIOError:
            return False
        self.at_end = not data
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._write(line)
        if len(self._rest) > _LONGEST_LINE:
            self._end_line()
        return bool(data)

    def close(self) -> None:
        """Hands on what is still in the pipe, and closes it, whoever else may hold it open."""
        for _ in range(_PIPE_BYTES // _READ_BYTES + 1):
            if not self.read():
                break
        self._end_line()
        self._file.close()

    def _end_line(self) -> None:
        if self._rest:
            self._write(self._rest)
        self._rest = b""


class Child:
    """A process of the cluster.

    It runs in a session of its own, so that a terminal's Ctrl-C reaches it through the
    launcher alone, and gets SIGKILL from the kernel when the launcher dies (Linux only).

    Raises:
        OSError: if the process cannot be started.
    """

    def __init__(
        self,
        task: Task,
        command: Sequence[str],
        environment: Mapping[str, str],
        stdout: Callable[[bytes], None],
        stderr: Callable[[bytes], None],
    ) -> None:
        self.task = task
        self.stop_signal = signal.SIGTERM
        self.stop_at: float | None = None  # when to send stop_signal, in time.monotonic()
        self.kill_at: float | None = None  # when to send SIGKILL, after stop_signal
        self.signalled = False
        self.killed = False
        self._process = subprocess.Popen(
            tied_to_this_process(command),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdout and self._process.stderr  # for mypy: they are pipes
        self.pipes = (Pipe(self._process.stdout, stdout), Pipe(self._process.stderr, stderr))

    @property
    def pid(self) -> int:
        """Its process id, and that of its group."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not been found to have ended."""
        return self._process.returncode is None

    @property
    def exit_code(self) -> int:
        """Its exit code as shells give it: 128 + number after a signal. It must have ended."""
        code = self._process.returncode
        return 128 - code if code < 0 else code

    @property
    def was_killed(self) -> bool:
        """Whether a signal ended it, rather than its own exit. It must have ended."""
        return self._process.returncode < 0

    @property
    def ending(self) -> str:
        """How it ended, as the rest of a sentence: `was killed by SIGKILL`."""
        code = self._process.returncode
        if code >= 0:
            return f"ended with code {code}"
        try:
            return f"was killed by {signal.Signals(-code).name}"
        except ValueError:  # real-time signals have no names
            return f"was killed by signal {-code}"

    def send(self, number: int) -> None:
        """Sends a signal to the process, not to processes that it has started."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """Sends SIGKILL to the process and all of its group."""
        self.killed = True
        os.killpg(self.pid, signal.SIGKILL)

    def has_ended(self) -> bool:
        """Looks whether the process has ended; `finish` must follow."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def finish(self) -> None:
        """Waits for the end, clears what is left of its group, hands on its last lines."""
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        # Before the process is reaped: until then nobody else can have its id.
        os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in self.pipes:
            pipe.close()


def tied_to_this_process(command: Sequence[str]) -> list[str]:
    """Returns the command that runs `command` so that it gets SIGKILL when this process dies.

    The process is the same: its id is that of the program.
    """
    return [sys.executable, "-IS", tied.__file__, str(os.getpid()), *command]
