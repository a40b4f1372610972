"""A pytest plugin that counts the CPU seconds of every test, and fails a dear one without its mark.

CPU seconds, of this process and of the children it has waited for, depend little on what else the
machine does. On a processor that takes longer to start TensorFlow and Keras than `_START`, the
limit is as many times larger, so it is no race with the machine. What a fixture of wider scope
costs is nobody's test: it is listed by itself.
"""

from __future__ import annotations

import collections
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

LIMIT = 5.0
# CPU seconds until TensorFlow and Keras are imported, on the processor that the limit is meant for.
_START = 5.0
_MARKS = ("slow", "process", "exhaustive")
_TEST = "cpu_seconds"
_FIXTURE = "cpu_seconds_of_fixture"
_SHOWN = 20


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class CpuSeconds:
    """Measures where the tests run; adds up and prints where the reports come together."""

    def __init__(self) -> None:
        """Is made as soon as TensorFlow and Keras are imported."""
        self._limit = LIMIT * max(1.0, _cpu_seconds() / _START)
        self._started = 0.0
        self._fixtures = 0.0  # of wider scope than a function, since this process began
        self._fixtures_at_start = 0.0
        self._of_fixtures: list[tuple[str, float]] = []
        self._total_of_workers = 0.0
        self.tests: dict[str, float] = {}
        self.shared: collections.Counter[str] = collections.Counter()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Iterator[None]:
        self._started = _cpu_seconds()
        self._fixtures_at_start = self._fixtures
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Iterator[None]:
        if fixturedef.scope == "function":
            return (yield)
        started, inner = _cpu_seconds(), self._fixtures
        try:
            return (yield)
        finally:
            own = _cpu_seconds() - started - (self._fixtures - inner)
            self._fixtures += own
            self._of_fixtures.append((f"{fixturedef.baseid}::{fixturedef.argname}", own))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Iterator[None]:
        report = yield
        spent = _cpu_seconds() - self._started - (self._fixtures - self._fixtures_at_start)
        if call.when == "call" and report.passed and spent > self._limit and not _may_be_dear(item):
            report.outcome = "failed"
            report.longrepr = (
                f"{item.nodeid} took {spent:.1f} CPU seconds. A test without one of the marks "
                f"{', '.join(_MARKS)} may take {self._limit:.1f}: make it cheaper, or mark it as "
                "slow, and it runs in .ci/run only."
            )
        if call.when == "teardown":
            report.user_properties.append((_TEST, round(spent, 3)))
            report.user_properties += [(_FIXTURE, entry) for entry in self._of_fixtures]
            self._of_fixtures.clear()
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "teardown":
            return
        for name, value in report.user_properties:
            if name == _TEST:
                self.tests[report.nodeid] = value
            elif name == _FIXTURE:
                fixture, seconds = value
                self.shared[fixture] += seconds

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            output[_TEST] = _cpu_seconds()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        self._total_of_workers += getattr(node, "workeroutput", {}).get(_TEST, 0.0)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if not self.tests:
            return
        write = terminalreporter.write_line
        terminalreporter.section("CPU seconds, with those of children")
        for name, seconds in sorted(self.tests.items(), key=lambda entry: -entry[1])[:_SHOWN]:
            write(f"{seconds:8.1f}  {name}")
        folders: collections.Counter[str] = collections.Counter()
        for name, seconds in self.tests.items():
            folders[str(pathlib.PurePath(name.split("::")[0]).parent)] += seconds
        write("Folders:")
        for name, seconds in folders.most_common():
            write(f"{seconds:8.1f}  {name}")
        write("Fixtures that tests share:")
        for name, seconds in self.shared.most_common(8):
            write(f"{seconds:8.1f}  {name}")
        known = sum(folders.values()) + sum(self.shared.values())
        everything = self._total_of_workers or _cpu_seconds()
        write(f"{known:8.1f}  in all; {everything - known:.1f} more to start and to collect")


def _may_be_dear(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(mark) for mark in _MARKS)
