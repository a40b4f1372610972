"""What a conversion has finished, so that it can go on where it was stopped."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from typing import Any

import google_crc32c

from tfrecords.fault import fault_point

FILE_NAME = "journal"
# To be raised with every change of what lies in the work folder.
_VERSION = 2
_SECONDS_BETWEEN_SYNCS = 2.0


def fingerprint(*parts: Any) -> str:
    """Changes with anything in `parts`, which are values that `json.dumps` takes."""
    text = json.dumps([_VERSION, *parts], sort_keys=True)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


class Journal:
    """Lines of a checksum and JSON, each of which says that something is finished.

    A line that was written only in part, because the process died, or that was changed since, ends
    the journal. What the lines speak of has checksums in them, for a machine that died and lost the
    end of another file.

    Args:
        folder: The work folder. If its journal is of the same fingerprint, the entries are there
            to be used; else all that is in the folder is removed.
        fingerprint: Of everything that the data set depends on.
        fresh: Remove what is there in any case.

    Attributes:
        removed: Whether there was work that could not be used.
    """

    def __init__(self, folder: str, fingerprint: str, fresh: bool = False) -> None:
        self._path = os.path.join(folder, FILE_NAME)
        self._entries: list[dict[str, Any]] = []
        size = 0 if fresh else self._read(fingerprint)
        self.removed = not size and bool(os.listdir(folder))
        if not size:
            for entry in os.scandir(folder):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path)
                else:
                    os.unlink(entry.path)
        self._file = open(self._path, "r+b" if size else "wb")
        self._file.truncate(size)
        self._file.seek(size)
        self._synced = time.monotonic()
        self._written = len(self._entries)
        if not size:
            self.add("begin", fingerprint=fingerprint)

    def _read(self, fingerprint: str) -> int:
        """Reads the entries; returns the bytes of them, 0 if they cannot be used."""
        try:
            with open(self._path, "rb") as file:
                lines = file.read().split(b"\n")[:-1]
        except OSError:
            return 0
        size = 0
        for line in lines:
            crc, _, text = line.partition(b" ")
            if crc != _crc(text):
                break
            entry = json.loads(text)
            if not size and entry != {"kind": "begin", "fingerprint": fingerprint}:
                return 0
            self._entries.append(entry)
            size += len(line) + 1
        return size

    def entries(self, kind: str) -> list[dict[str, Any]]:
        """The entries of one kind that an earlier process wrote, in order."""
        return [
            {name: value for name, value in entry.items() if name != "kind"}
            for entry in self._entries
            if entry["kind"] == kind
        ]

    def add(self, kind: str, **values: Any) -> None:
        """Writes that something is finished."""
        text = json.dumps({"kind": kind, **values}, separators=(",", ":")).encode("utf-8")
        self._file.write(_crc(text) + b" " + text + b"\n")
        self._file.flush()
        now = time.monotonic()
        if now - self._synced > _SECONDS_BETWEEN_SYNCS:
            os.fsync(self._file.fileno())
            self._synced = now
        self._written += 1
        fault_point("journal", self._written)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _crc(text: bytes) -> bytes:
    return f"{google_crc32c.value(text):08x}".encode()
