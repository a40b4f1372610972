"""Parsed rows on disk, so that the text is parsed once and memory does not grow with it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from tfrecords.conversion.criteo_text import Rows


@dataclasses.dataclass(frozen=True)
class SpoolPiece:
    """Some consecutive rows, in a file.

    Attributes:
        first_row: Position of its first row among all rows.
        rows: Number of rows.
        offset: Byte at which it begins.
    """

    first_row: int
    rows: int
    offset: int


class Spool:
    """A file of parsed rows: written once, then read piece by piece, as often as needed.

    It takes 196 bytes a row.

    Args:
        path: The file.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: BinaryIO = open(path, "wb")
        self._offset = 0
        self.pieces: list[SpoolPiece] = []
        self.rows = 0

    def append(self, rows: Rows) -> None:
        """Writes rows behind the ones that are there."""
        count = len(rows.label)
        self.pieces.append(SpoolPiece(self.rows, count, self._offset))
        for array in (rows.label, rows.integers, rows.categories, rows.blank):
            data = np.ascontiguousarray(array).data
            self._file.write(data)
            self._offset += data.nbytes
        self.rows += count

    def end(self) -> None:
        """Ends writing."""
        self._file.close()

    def read(self, piece: SpoolPiece) -> Rows:
        """Reads a piece; may be called on any thread."""
        count = piece.rows
        with open(self._path, "rb") as file:
            file.seek(piece.offset)

            def array(dtype: type, *shape: int) -> np.ndarray:
                return np.fromfile(file, dtype, int(np.prod(shape))).reshape(shape)

            return Rows(
                label=array(np.uint8, count),
                integers=array(np.int32, 13, count),
                categories=array(np.uint32, 26, count),
                blank=array(np.bool_, 39, count),
            )

    def pieces_until(self, row: int) -> Iterator[SpoolPiece]:
        """The pieces that hold rows before `row`, the last of which may hold later ones too."""
        for piece in self.pieces:
            if piece.first_row < row:
                yield piece

    def remove(self) -> None:
        """Deletes the file."""
        self._file.close()
        os.unlink(self._path)
