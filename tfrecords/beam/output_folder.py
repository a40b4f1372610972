"""A data set folder on any of Beam's file systems, which becomes a data set in the last step.

Object stores cannot rename a folder, so this is not `WholeFolder`: workers write below a folder of
the run's own beside the one that is wanted, the last step moves the files to their names, and
`dataset.json`, without which a folder is no data set, comes after all others.
"""

from __future__ import annotations

import dataclasses
import os
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence

import google_crc32c
from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

from tfrecords import dataset_info
from tfrecords.errors import DataError

_SCHEME = re.compile(r"[a-zA-Z][-a-zA-Z0-9+.]*://")
_BATCH = 100


@dataclasses.dataclass(frozen=True)
class OutputFolder:
    """The folder that is wanted, and the one where the work is done.

    Attributes:
        path: The folder that is wanted.
        work: The folder of this run, beside it.
    """

    path: str
    work: str

    @classmethod
    def open(cls, path: str, overwrite: bool) -> OutputFolder:
        """Checks that a data set may be written.

        Args:
            path: The folder: missing, empty, or, with `overwrite`, a data set.
            overwrite: Whether a data set that is there may be replaced.

        Raises:
            DataError: If it may not, or the place cannot be looked at.
        """
        path = path.rstrip("/") if _SCHEME.match(path) else os.path.abspath(path)
        parent, name = FileSystems.split(path)
        if not name:
            raise DataError(f"--output_dir={path} names no folder.")
        try:
            names = _files(path)
        except (BeamIOError, ValueError, OSError) as error:
            raise DataError(f"The output folder {path} cannot be looked at: {error}.") from error
        if FileSystems.join(path, dataset_info.FILE_NAME) in names:
            if not overwrite:
                raise DataError(
                    f"The folder {path} holds a data set already. --overwrite replaces it once the "
                    "new one is whole; or name another folder."
                )
        elif names or os.path.isfile(path):
            raise DataError(
                f"The folder {path} is not empty and is no data set (it has no "
                f"{dataset_info.FILE_NAME}), so it is not replaced. Name another folder."
            )
        return cls(path, FileSystems.join(parent, f".{name}.incomplete-{uuid.uuid4().hex[:12]}"))

    def write(self, name: str, chunks: Iterable[bytes]) -> tuple[str, int, str]:
        """Writes a file below the work folder, under a name that no other attempt has.

        Args:
            name: The name that it will have in the data set.
            chunks: Its content, in parts.

        Returns:
            Its path for now, its size, and its CRC-32C as eight hex digits.
        """
        path = FileSystems.join(self.work, *name.split("/")) + f".{uuid.uuid4().hex[:12]}"
        size = crc = 0
        with FileSystems.create(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            for chunk in chunks:
                file.write(chunk)
                size += len(chunk)
                crc = google_crc32c.extend(crc, chunk)
        return path, size, f"{crc:08x}"

    def read(self, name: str) -> bytes:
        """The content of a file of the data set."""
        path = FileSystems.join(self.path, name)
        with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            return file.read()

    def commit(self, files: Mapping[str, str], description: bytes) -> None:
        """Makes the folder a data set; may be run again where a worker died in the middle.

        Args:
            files: From the names in the data set to the paths where the files are now.
            description: The content of `dataset.json`.
        """
        marker = FileSystems.join(self.path, dataset_info.FILE_NAME)
        moves = [
            (path, FileSystems.join(self.path, *name.split("/")))
            for name, path in sorted(files.items())
        ]
        present = set(_files(self.work))
        done = {target for path, target in moves if path not in present}
        earlier = set(_files(self.path))
        if marker in earlier:
            FileSystems.delete([marker])
        _delete(sorted(earlier - done - {marker}))
        moves = [(path, target) for path, target in moves if target not in done]
        for folder in sorted({FileSystems.split(target)[0] for _, target in moves}):
            _make(folder)
        for start in range(0, len(moves), _BATCH):
            batch = moves[start : start + _BATCH]
            FileSystems.rename([path for path, _ in batch], [target for _, target in batch])
        with FileSystems.create(marker, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            file.write(description)
        self.discard()

    def discard(self) -> None:
        """Removes the work folder and what is left in it."""
        _delete(_files(self.work))
        if not _SCHEME.match(self.work) and os.path.isdir(self.work):
            FileSystems.delete([self.work])


def _files(folder: str) -> list[str]:
    """All files below a folder."""
    if not _SCHEME.match(folder) and not os.path.isdir(folder):
        return []
    matched = FileSystems.match([FileSystems.join(folder, "**")])[0].metadata_list
    return [metadata.path for metadata in matched]


def _delete(paths: Sequence[str]) -> None:
    for start in range(0, len(paths), _BATCH):
        FileSystems.delete(list(paths[start : start + _BATCH]))


def _make(folder: str) -> None:
    if not FileSystems.exists(folder):
        try:
            FileSystems.mkdirs(folder)
        except (BeamIOError, OSError):
            # Object stores have no folders to make, and another worker may have been faster.
            pass
