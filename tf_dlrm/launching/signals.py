"""Signals as something that a loop can wait for."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import Any

# SIGHUP comes when the terminal is closed; under nohup it is ignored, and stays so.
_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Signals:
    """While it is entered, signals make a descriptor readable instead of ending the process."""

    def __init__(self) -> None:
        self._received: list[int] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._wakeup_before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, *_STOPS):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._reader)
        os.close(self._writer)

    def fileno(self) -> int:
        """Becomes readable when a signal has come, that of a child's end among them."""
        return self._reader

    def take_stops(self) -> list[int]:
        """Returns the signals that ask to stop and have come since the last call."""
        try:
            while os.read(self._reader, 4096):
                pass
        except BlockingIOError:
            pass
        received, self._received = self._received, []
        return received

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number != signal.SIGCHLD:
            self._received.append(number)
