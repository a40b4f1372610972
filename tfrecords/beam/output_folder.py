"""A data set folder on any of Beam's file systems, which becomes a data set in the last step.

Object stores cannot rename a folder, so this is not `WholeFolder`: workers write below a folder of
the run's own beside the one that is wanted, the last step moves the files to their names, and
`dataset.json`, without which a folder is no data set, comes after all others.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import uuid
from collections.abc import Mapping, Sequence
from typing import BinaryIO

from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

from tfrecords import dataset_info
from tfrecords.beam.units import SCHEME
from tfrecords.errors import DataError

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
        path = path.rstrip("/") if SCHEME.match(path) else os.path.abspath(path)
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

    def create(self, name: str) -> tuple[str, BinaryIO]:
        """Opens a file below the work folder, under a path that no other attempt has.

        Args:
            name: The name that it will have in the data set.
        """
        path = FileSystems.join(self.work, *name.split("/")) + f".{uuid.uuid4().hex[:12]}"
        return path, _create(path)

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
            # Object stores have no folders to make, and another worker may have been faster.
            with contextlib.suppress(BeamIOError, OSError):
                FileSystems.mkdirs(folder)
        for start in range(0, len(moves), _BATCH):
            batch = moves[start : start + _BATCH]
            FileSystems.rename([path for path, _ in batch], [target for _, target in batch])
        with _create(marker) as file:
            file.write(description)
        self._remove_work()

    def discard(self) -> None:
        """Removes the work folder and what is left in it, as far as that is possible."""
        try:
            self._remove_work()
        except Exception as error:
            logging.getLogger(__name__).warning("%s could not be removed: %s", self.work, error)

    def _remove_work(self) -> None:
        _delete(_files(self.work))
        if not SCHEME.match(self.work) and os.path.isdir(self.work):
            FileSystems.delete([self.work])


def _create(path: str) -> BinaryIO:
    return FileSystems.create(path, compression_type=CompressionTypes.UNCOMPRESSED)


def _files(folder: str) -> list[str]:
    """All files below a folder."""
    if not SCHEME.match(folder) and not os.path.isdir(folder):
        return []
    matched = FileSystems.match([FileSystems.join(folder, "**")])[0].metadata_list
    return [metadata.path for metadata in matched]


def _delete(paths: Sequence[str]) -> None:
    for start in range(0, len(paths), _BATCH):
        FileSystems.delete(list(paths[start : start + _BATCH]))
