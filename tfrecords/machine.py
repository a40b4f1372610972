"""What this machine has left: memory, and room on its disks."""

from __future__ import annotations

import contextlib
import pathlib
import shutil

from tfrecords import files
from tfrecords.errors import DataError


def available_bytes(root: str = "/") -> int | None:
    """Returns how much memory this process may still take; None where Linux does not say.

    It is the least of what the machine has left and what the limits of its control group, as those
    of a container, leave.

    Args:
        root: Where the file system begins.
    """
    found = []
    with contextlib.suppress(OSError, LookupError, ValueError):
        lines = pathlib.Path(root, "proc/meminfo").read_text(encoding="ascii").splitlines()
        kilobytes = {name: int(rest.split()[0]) for name, rest in (x.split(":") for x in lines)}
        found.append(1024 * (kilobytes["MemAvailable"] + kilobytes.get("SwapFree", 0)))
    groups = pathlib.Path(root, "sys/fs/cgroup")
    for limit, used, details, cache in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        (
            *("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
            *("memory/memory.stat", "total_inactive_file"),
        ),
    ):
        with contextlib.suppress(OSError, LookupError, ValueError):
            most = int((groups / limit).read_text(encoding="ascii"))
            taken = int((groups / used).read_text(encoding="ascii"))
            stat = dict(x.split() for x in (groups / details).read_text("ascii").splitlines())
            # The kernel takes the pages of files back before it refuses any.
            found.append(max(0, most - taken + int(stat[cache])))
    return min(found, default=None)


def in_words(size: int) -> str:
    """Returns a number of bytes for a sentence: 1.5 GB."""
    for unit, name in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB")):
        if size >= unit:
            return f"{size / unit:,.1f} {name}"
    return f"{size:,} bytes"


def check_memory(what: str, needed: int) -> None:
    """Refuses what is larger than the memory that is left.

    Args:
        what: What needs it, as the beginning of a sentence.
        needed: Bytes.

    Raises:
        DataError: If there is less.
    """
    available = available_bytes()
    if available is not None and needed > available:
        raise DataError(
            f"{what} needs {in_words(needed)} of memory or more, but this machine has "
            f"{in_words(available)} left."
        )


def check_disk(what: str, path: str, needed: int) -> None:
    """Refuses to begin to write what is larger than what a local disk has left.

    Args:
        what: What needs it, as the beginning of a sentence.
        path: The file or folder that will be written; it need not exist. An object store has room.
        needed: Bytes.

    Raises:
        DataError: If there is less.
    """
    if files.is_remote(path):
        return
    folder = pathlib.Path(files.local(path)).absolute()
    while not folder.exists():
        folder = folder.parent
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise DataError(
                f"{what} needs {in_words(needed)} of disk or more, but that of {path} has "
                f"{in_words(free)} left."
            )
