"""What the machines can do, read from a small text file."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import sys
from typing import Any

import tomli_w

from tf_dlrm.errors import check_whole

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

GB = 1e9
_FOLDER = pathlib.Path(__file__).parent / "hardware"


@dataclasses.dataclass(frozen=True)
class Hardware:
    """The devices that a plan is for, and how fast they are. GB are 1e9 bytes.

    Attributes:
        name: What reports call it.
        devices_per_host: Devices in one machine.
        shared: Whether the devices of a host are parts of one machine, as logical CPUs are. Then
            all rates are the host's, and the devices that are in use divide them.
        memory_gb: Memory of a device.
        host_memory_gb: Memory of a host. Bounds its devices together where these share it.
        gemm_gflops: Matrix products in float32 as training makes them, 1e9 operations a second.
        memory_gbs: Reading or writing memory in order, GB/s.
        row_read_gbs: Gathering random rows of a table, GB of rows a second.
        row_update_gbs: Updating random rows in place, GB of rows a second; a row that is read and
            written counts once.
        min_row_bytes: What a shorter row costs all the same.
        unique_mids: Making ids unique, million ids a second.
        intra_host_gbs: What a device sends to other devices of its host, GB/s.
        intra_host_latency_us: Time of a collective without content among them, microseconds.
        inter_host_gbs: What a device sends to other hosts, GB/s.
        inter_host_latency_us: Time of a collective without content between two hosts.
        step_overhead_us: Time of a step that does nothing, microseconds.
    """

    name: str
    devices_per_host: int
    shared: bool
    memory_gb: float
    host_memory_gb: float
    gemm_gflops: float
    memory_gbs: float
    row_read_gbs: float
    row_update_gbs: float
    min_row_bytes: int
    unique_mids: float
    intra_host_gbs: float
    intra_host_latency_us: float
    inter_host_gbs: float
    inter_host_latency_us: float
    step_overhead_us: float

    def sharers(self, devices: int) -> int:
        """Returns how many devices divide the rates of a host when `devices` are in use."""
        return min(devices, self.devices_per_host) if self.shared else 1

    def device_memory(self, devices: int) -> float:
        """Returns the bytes that each of `devices` devices may fill."""
        limit = self.memory_gb
        if self.shared:
            limit = min(limit, self.host_memory_gb / self.sharers(devices))
        return limit * GB

    def to_toml(self, comment: str = "") -> str:
        """Returns the text that `load_hardware` reads.

        Args:
            comment: Lines to put first.
        """
        values = {f.name: getattr(self, f.name) for f in _entries()}
        head = "".join(f"# {line}\n" for line in comment.splitlines())
        return head + tomli_w.dumps(values)


def _entries() -> list[dataclasses.Field]:
    return [field for field in dataclasses.fields(Hardware) if field.name != "name"]


def presets() -> tuple[str, ...]:
    """Returns the names of the descriptions that come with the package."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def load_hardware(name_or_file: str) -> Hardware:
    """Reads a description.

    Args:
        name_or_file: The name of a preset, or a file.

    Raises:
        ValueError: If there is no such preset or file, or an entry is unknown, missing or of the
            wrong type.
    """
    if name_or_file in presets():
        path = _FOLDER / f"{name_or_file}.toml"
    else:
        path = pathlib.Path(name_or_file)
        if not path.is_file():
            raise ValueError(
                f"Hardware '{name_or_file}' is neither a file nor one of {', '.join(presets())}."
            )
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not TOML: {error}.") from error
    return _checked(path, values)


def this_machine() -> Hardware:
    """Returns the preset `cpu` with the memory of this machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GB
    return dataclasses.replace(load_hardware("cpu"), memory_gb=memory, host_memory_gb=memory)


def _checked(path: pathlib.Path, values: dict[str, Any]) -> Hardware:
    names = [field.name for field in _entries()]
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise ValueError(
            f"{path}: there is no entry '{unknown[0]}'; a description of hardware has "
            f"{', '.join(names)}."
        )
    missing = [name for name in names if name not in values]
    if missing:
        raise ValueError(f"{path}: the entry '{missing[0]}' is missing.")
    for field in _entries():
        _check_entry(path, field.name, str(field.type), values[field.name])
    return Hardware(name=path.stem, **values)


def _check_entry(path: pathlib.Path, name: str, kind: str, value: Any) -> None:
    if kind == "bool":
        if not isinstance(value, bool):
            raise ValueError(f"{path}: '{name}' must be true or false, but is {value!r}.")
        return
    if kind == "int":
        check_whole(f"{path}: '{name}'", value, 1)
        return
    number = not isinstance(value, bool) and isinstance(value, int | float)
    # A latency may be none at all; a rate that others are divided by may not.
    may_be_zero = name.endswith("_us")
    if not number or not 0 <= value < math.inf or (value == 0 and not may_be_zero):
        least = "of at least 0" if may_be_zero else "above 0"
        raise ValueError(f"{path}: '{name}' must be a number {least}, but is {value!r}.")
