"""Commands that are killed at random moments and given again, and what that leaves."""

from __future__ import annotations

import collections
import dataclasses
import os
import pathlib
import random
import re
import shutil
import signal
import time
from collections.abc import Callable, Mapping

from preloaded import Preloaded

_SECONDS = 300  # for anything that is waited for: it takes 5 to 30
_NEIGHBOUR = "out_of_another"  # what else is in the working folder, and must be left alone
# SIGKILL leaves a process no time for anything; the others are what managers and terminals send.
_SIGNALS = [signal.SIGKILL] * 8 + [signal.SIGTERM, signal.SIGINT]
_MOST_IN_A_ROW = 3
_LEFTOVER = re.compile(r"incomplete|replaced|temp|tmp|part|lock")

Files = Mapping[str, bytes]


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    """Returns all files below a folder, or the one that it is itself."""
    if folder.is_file():
        return {"": folder.read_bytes()}
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@dataclasses.dataclass(frozen=True)
class Command:
    """A command that writes below the folder in which it runs.

    Args:
        name: What the table calls it.
        kills: How often it is killed.
        line: What stands behind `python -m`.
        output: The file or folder that it writes.
        marker: The file by which its folder counts as whole; None where it grows in its place.
        compared: Returns of what it wrote and printed that which has to be equal, if not all.
        label: Who gets the signal: the command's process, or one that the launcher names so.
        goes_on: Where the command is expected to end with 0 though a part of it was killed: raises
            if it then wrote, first argument, what it may not, beside what was expected.
    """

    name: str
    kills: int
    line: tuple[str, ...]
    output: str = "out"
    marker: str | None = None
    compared: Callable[[Files], Files] = dict
    label: str = ""
    goes_on: Callable[[Files, Files], None] | None = None


class Process:
    """A command that runs in a folder; what it prints goes to files beside that."""

    def __init__(self, command: Command, folder: pathlib.Path, preloaded: Preloaded) -> None:
        self._command, self._folder, self._preloaded = command, folder, preloaded
        self._log = folder.parent / f"{folder.name}.log"
        self._out = self._log.with_suffix(".out")
        self.code: int | None = None
        self._before = self._traces()
        self._started = time.monotonic()
        self._own_pid = preloaded.start(command.line, folder, str(self._out), str(self._log))

    def _traces(self) -> object:
        """What changes as soon as the command has begun to work."""
        seen = []
        for root, _, names in os.walk(self._folder):
            for path in (os.path.join(root, name) for name in names):
                try:
                    seen.append((path, os.stat(path).st_mtime_ns, os.stat(path).st_size))
                except FileNotFoundError:
                    pass
        return seen

    def errors(self) -> str:
        """Its standard error so far."""
        return self._log.read_text(errors="replace")

    def printed(self) -> bytes:
        """Its standard output so far."""
        return self._out.read_bytes()

    def _pid(self) -> int | None:
        if not self._command.label:
            return self._own_pid
        lines = re.findall(rf"\[launch\] {self._command.label} is process (\d+)", self.errors())
        return int(lines[-1]) if lines else None

    def ended(self, seconds: float = 0.0) -> bool:
        """Waits at most so long; returns whether it has ended."""
        if self.code is None:
            self.code = self._preloaded.exit_code(seconds)
        return self.code is not None

    def seconds_until_work(self) -> float:
        """Waits until it has begun to work, or has ended."""
        while not self.ended(0.005) and self._traces() == self._before:
            pass
        return time.monotonic() - self._started

    def seconds_until_end(self) -> float:
        assert self.ended(_SECONDS), self.errors()
        return time.monotonic() - self._started

    def kill(self, number: int) -> bool:
        """Sends the signal; returns whether there was still somebody to get it."""
        pid = self._pid()
        if self.ended() or pid is None or not pathlib.Path(f"/proc/{pid}").exists():
            return False
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return False
        return True

    def wait_for_children(self) -> list[int]:
        """Waits until no process runs in the folder; returns those that stay."""
        deadline = time.monotonic() + 20
        while (left := self._in_folder()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return left

    def _in_folder(self) -> list[int]:
        found = []
        for link in pathlib.Path("/proc").glob("[0-9]*/cwd"):
            try:
                if pathlib.Path(os.readlink(link)) == self._folder:
                    found.append(int(link.parent.name))
            except OSError:
                pass
        return found


class Campaign:
    """Kills one command again and again, in folders of their own.

    Args:
        command: The command.
        folder: Where its working folders are made.
        seed: What moments and signals are drawn from.
        preloaded: What starts the command.
    """

    def __init__(
        self, command: Command, folder: pathlib.Path, seed: str, preloaded: Preloaded
    ) -> None:
        self._preloaded = preloaded
        self._command, self._folder = command, folder
        self._rng = random.Random(f"{seed} {command.name}")
        self._tries = 0
        self.counts: collections.Counter[str] = collections.Counter()
        self.signals: collections.Counter[str] = collections.Counter()
        self._expected, self._names = self._undisturbed()

    def _new(self) -> pathlib.Path:
        self._tries += 1
        folder = self._folder / f"try_{self._tries}"
        for name in ("", _NEIGHBOUR, f".{_NEIGHBOUR}.incomplete"):
            (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / name / "file").write_text("left alone")
        return folder

    def _start(self, folder: pathlib.Path) -> Process:
        return Process(self._command, folder, self._preloaded)

    def _finish(self, process: Process, folder: pathlib.Path) -> dict[str, bytes]:
        process.seconds_until_end()
        assert process.code == 0, process.errors()
        found = contents(folder)
        for name in list(found):
            if name == "file" or name.split(os.sep)[0] in (_NEIGHBOUR, f".{_NEIGHBOUR}.incomplete"):
                assert found.pop(name) == b"left alone", name
        return found | {"printed": process.printed()}

    def _undisturbed(self) -> tuple[Files, set[str]]:
        folder = self._new()
        process = self._start(folder)
        self._until_work = process.seconds_until_work()
        self._seconds = process.seconds_until_end()
        found = self._finish(process, folder)
        return self._command.compared(found), set(found)

    def run(self) -> None:
        """Kills it as often as is wanted, each time somewhere else."""
        count = self._command.kills
        while self.counts["kills"] < count:
            folder = self._new()
            if self._command.marker and self._rng.random() < 0.5:
                first = self._folder / "try_1" / self._command.output
                shutil.copytree(first, folder / self._command.output)
                (folder / self._command.output / "earlier").write_text("goes")
            before = contents(folder / self._command.output)
            lost = False
            for _ in range(self._rng.randint(1, _MOST_IN_A_ROW)):
                lost = self._kill_once(folder, before)
                if not lost or self.counts["kills"] == count:
                    break
            if lost:
                process = self._start(folder)
                found = self._finish(process, folder)
                self._compare(found, folder)
            shutil.rmtree(folder)

    def _kill_once(self, folder: pathlib.Path, before: Files) -> bool:
        """Runs the command and kills it; returns whether it has to be given again."""
        number = signal.SIGKILL if self._command.label else self._rng.choice(_SIGNALS)
        process = self._start(folder)
        if self._rng.random() < 0.15:
            # Wherever that is: but Python has a traceback for a SIGINT while it imports.
            number = signal.SIGKILL
            moment = self._rng.random() * self._seconds
        else:
            process.seconds_until_work()
            moment = self._rng.random() * (self._seconds - self._until_work)
        deadline = time.monotonic() + moment
        process.ended(max(0.0, deadline - time.monotonic()))
        killed = process.kill(number)
        process.seconds_until_end()
        code = process.code
        if not killed or (code == 0 and not self._command.goes_on):
            self.counts["too late"] += 1
            self._compare(self._finish(process, folder), folder)
            return False
        self.counts["kills"] += 1
        self.signals[signal.Signals(number).name] += 1
        said = process.errors()
        assert process.wait_for_children() == [], said
        if self._command.goes_on:
            self._compare(self._finish(process, folder), folder)
            return False
        if self._command.label:
            assert code != 0, said
        else:
            expected = {-number, 128 + number} if number != signal.SIGKILL else {-number}
            assert code in expected, (code, said)
        assert "Traceback" not in said, said
        self._check_nothing_is_half(folder, before)
        return True

    def _check_nothing_is_half(self, folder: pathlib.Path, before: Files) -> None:
        output = self._command.output
        there = contents(folder / output)
        if there == before:
            self.counts["earlier one there"] += bool(there)
            return
        named = {f"{output}{os.sep}{name}".rstrip(os.sep): data for name, data in there.items()}
        found = self._command.compared(named)
        expected = {k: v for k, v in self._expected.items() if k.split(os.sep)[0] == output}
        if self._command.marker is None:  # a run's folder, in which its checkpoints are whole
            checkpoints = [k for k in found.keys() & expected.keys() if "checkpoint" in k]
            assert [k for k in checkpoints if found[k] != expected[k]] == []
            self.counts["checkpoints there"] += len({k.split(":")[0] for k in checkpoints})
        else:
            assert different(found, expected) == []
            self.counts["new one there"] += 1

    def _compare(self, found: Files, folder: pathlib.Path) -> None:
        left = [name for name in found.keys() - self._names if _LEFTOVER.search(name)]
        assert left == [], folder
        wrong = different(self._command.compared(found), self._expected)
        if wrong and self._command.goes_on:
            self._command.goes_on(self._command.compared(found), self._expected)
            self.counts["other numbers"] += 1
            return
        assert wrong == [], folder
        self.counts["equal"] += 1

    def row(self) -> str:
        """A line of the table: what was killed how often, and how it ended."""
        signals = ", ".join(f"{name} {count}" for name, count in sorted(self.signals.items()))
        counts = ", ".join(f"{name} {count}" for name, count in sorted(self.counts.items()))
        work = self._seconds - self._until_work
        return f"{self._command.name:32} {signals:32} {counts} (work {work:.1f} s)"


def different(found: Files, expected: Files) -> list[str]:
    """Returns the names under which two sets of files differ."""
    return sorted(k for k in found.keys() | expected.keys() if found.get(k) != expected.get(k))
