"""What memory and disks have left, and what they cannot hold."""

import pathlib
import shutil
import types

import pytest

from tfrecords import machine
from tfrecords.errors import DataError
from tfrecords.machine import available_bytes, check_disk, check_memory

_MEMINFO = "MemTotal:  9000 kB\nMemFree:  100 kB\nMemAvailable:  5000 kB\nSwapFree:  20 kB\n"


def _write(root: pathlib.Path, **values: str) -> None:
    for name, text in values.items():
        path = root / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_what_is_left_is_the_least_that_machine_and_container_leave(tmp_path):
    assert available_bytes(str(tmp_path)) is None
    _write(tmp_path, proc__meminfo=_MEMINFO)
    assert available_bytes(str(tmp_path)) == 5020 * 1024
    limit, used = "sys__fs__cgroup__memory_DOT_max", "sys__fs__cgroup__memory_DOT_current"
    details = {"sys__fs__cgroup__memory_DOT_stat": "anon 700\ninactive_file 300\n"}
    _write(tmp_path, **{limit: "max\n", used: "1000\n"}, **details)
    assert available_bytes(str(tmp_path)) == 5020 * 1024
    _write(tmp_path, **{limit: "4000\n"})
    assert available_bytes(str(tmp_path)) == 4000 - 1000 + 300
    _write(tmp_path, **{limit: "500\n"})
    assert available_bytes(str(tmp_path)) == 0


def test_what_memory_cannot_hold_is_refused(monkeypatch):
    monkeypatch.setattr(machine, "available_bytes", lambda: 3 * 10**9)
    check_memory("A trace", 3 * 10**9)
    said = "^A trace needs 3,000.0 TB of memory or more, but this machine has 3.0 GB left.$"
    with pytest.raises(DataError, match=said):
        check_memory("A trace", 3 * 10**15)
    monkeypatch.setattr(machine, "available_bytes", lambda: None)
    check_memory("A trace", 3 * 10**15)


def test_what_a_disk_cannot_hold_is_refused(monkeypatch, tmp_path):
    looked_at = []

    def usage(folder):
        looked_at.append(folder)
        return types.SimpleNamespace(free=7000)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    path = str(tmp_path / "not" / "there")
    check_disk("A data set", path, 7000)
    with pytest.raises(DataError, match=f"^A data set needs 7,001 bytes .* {path} has 7,000 bytes"):
        check_disk("A data set", path, 7001)
    assert looked_at == [tmp_path] * 2
    check_disk("A data set", "s3://bucket/folder", 7001)
