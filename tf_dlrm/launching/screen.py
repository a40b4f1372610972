"""What the launcher shows: whole lines, one writer."""

from __future__ import annotations

import os

_STDOUT = 1
_STDERR = 2


class Screen:
    """Writes lines of children, and the launcher's own, to standard output and standard error.

    A reader that has gone away, or a disk that is full, does not end a training: the lines are
    dropped. If that happened to the result, `result_was_lost` is true.
    """

    def __init__(self) -> None:
        self._closed: set[int] = set()

    @property
    def result_was_lost(self) -> bool:
        """Whether a line for standard output could not be written."""
        return _STDOUT in self._closed

    def result(self, line: bytes) -> None:
        """Writes a line to standard output as it is."""
        self._write(_STDOUT, line + b"\n")

    def log(self, label: str, line: bytes) -> None:
        """Writes a line to standard error, after who says it."""
        self._write(_STDERR, b"[%s] %s\n" % (label.encode(), line))

    def say(self, sentence: str) -> None:
        """Writes a sentence of the launcher to standard error."""
        self.log("launch", sentence.encode(errors="backslashreplace"))

    def _write(self, descriptor: int, data: bytes) -> None:
        while data and descriptor not in self._closed:
            try:
                data = data[os.write(descriptor, data) :]
            except BlockingIOError:  # a terminal that another program made non-blocking
                os.set_blocking(descriptor, True)
            except OSError:
                self._closed.add(descriptor)
