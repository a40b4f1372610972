"""Encoded rows on disk, so that the input is parsed once and memory does not grow with it."""

from __future__ import annotations

import bisect
import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import IO

import google_crc32c
import numpy as np

from tfrecords.conversion.encoding import EncodedColumn, EncodedRows, code_type
from tfrecords.errors import DataError


@dataclasses.dataclass(frozen=True)
class SpoolPiece:
    """Some consecutive rows of one input file.

    Attributes:
        file: Number of the input file.
        first_row: Position of its first row among all rows.
        rows: Number of rows.
        kept: Number of those that negative sub-sampling keeps.
        offset: Byte at which it begins.
        size: Bytes of all of it.
        dictionaries: Bytes of its first part, which is all that counting needs.
        dictionaries_crc: CRC-32C of that part.
        crc: CRC-32C of all of it.
    """

    file: int
    first_row: int
    rows: int
    kept: int
    offset: int
    size: int
    dictionaries: int
    dictionaries_crc: int
    crc: int


class Spool:
    """A file of encoded rows: written once, then read piece by piece, on any thread.

    Args:
        path: The file.
        dense: Number of dense columns.
        ragged: For each categorical column, whether it is ragged.
        files: Number of input files.
        pieces: What an earlier process has written; the file is cut behind it.
        kept: The types of what else is kept of each row, by name.

    Attributes:
        path: The file.

    Raises:
        DataError: If the file is shorter than these pieces.
    """

    def __init__(
        self,
        path: str,
        dense: int,
        ragged: tuple[bool, ...],
        files: int,
        pieces: list[SpoolPiece],
        kept: Mapping[str, str] | None = None,
    ) -> None:
        self.path = path
        self._others = dict(kept or {})
        self._dense = dense
        self._ragged = ragged
        self.pieces = pieces
        self.rows = self.kept = self._offset = 0
        self.file_rows = [0] * files
        self.file_kept = [0] * files
        for piece in pieces:
            self._advance(piece)
        if pieces and (not os.path.isfile(path) or os.path.getsize(path) < self._offset):
            raise DataError(
                f"The work file {path} has lost its end, so it cannot be used. Run the same "
                "command again, which begins anew."
            )
        mode = "r+b" if pieces else "wb"
        self._file: IO[bytes] = open(path, mode)
        self._file.truncate(self._offset)
        self._file.seek(self._offset)

    def _advance(self, piece: SpoolPiece) -> None:
        self.rows += piece.rows
        self.kept += piece.kept
        self.file_rows[piece.file] += piece.rows
        self.file_kept[piece.file] += piece.kept
        self._offset = piece.offset + piece.size

    def append(self, rows: EncodedRows, file: int, kept: int) -> SpoolPiece:
        """Writes rows behind the ones that are there.

        Args:
            rows: The rows.
            file: Number of the input file that they come from.
            kept: How many of them negative sub-sampling keeps.
        """
        sizes = [[len(column.keys), len(column.codes)] for column in rows.columns]
        dictionaries = [np.array(sizes, "<i8")]
        for column in rows.columns:
            dictionaries += [column.keys, column.counts, column.firsts]
        rest = [rows.label, rows.dense]
        rest += [np.asarray(rows.kept[name], dtype) for name, dtype in self._others.items()]
        for column in rows.columns:
            rest.append(column.codes)
            if column.lengths is not None:
                rest.append(column.lengths)
        first = self._write(dictionaries, 0)
        second = self._write(rest, first[1])
        self._file.flush()
        piece = SpoolPiece(
            file,
            self.rows,
            len(rows),
            kept,
            self._offset,
            first[0] + second[0],
            first[0],
            first[1],
            second[1],
        )
        self.pieces.append(piece)
        self._advance(piece)
        return piece

    def _write(self, arrays: list[np.ndarray], crc: int) -> tuple[int, int]:
        size = 0
        for array in arrays:
            data = np.ascontiguousarray(array).tobytes()
            self._file.write(data)
            crc = google_crc32c.extend(crc, data)
            size += len(data)
        return size, crc

    def end(self) -> None:
        """Ends writing."""
        self._file.close()

    def read_dictionaries(self, piece: SpoolPiece) -> tuple[EncodedColumn, ...]:
        """The columns of a piece without their codes and row lengths.

        Raises:
            DataError: If the bytes are not the ones that were written.
        """
        reader = self._reader(piece, piece.dictionaries, piece.dictionaries_crc)
        return tuple(
            EncodedColumn(keys, counts, firsts, np.zeros(0, np.uint8), None)
            for keys, counts, firsts, _ in self._dictionaries(reader)
        )

    def read(self, piece: SpoolPiece) -> EncodedRows:
        """A whole piece.

        Raises:
            DataError: If the bytes are not the ones that were written.
        """
        reader = self._reader(piece, piece.size, piece.crc)
        dictionaries = list(self._dictionaries(reader))
        label = reader.array("<f4", piece.rows)
        dense = reader.array("<f4", self._dense * piece.rows).reshape(self._dense, piece.rows)
        others = {name: reader.array(dtype, piece.rows) for name, dtype in self._others.items()}
        columns = []
        for (keys, counts, firsts, values), ragged in zip(dictionaries, self._ragged, strict=True):
            codes = reader.array(code_type(len(keys)), values)
            lengths = reader.array("<i4", piece.rows) if ragged else None
            columns.append(EncodedColumn(keys, counts, firsts, codes, lengths))
        return EncodedRows(label, dense, tuple(columns), others)

    def _reader(self, piece: SpoolPiece, size: int, crc: int) -> _Reader:
        with open(self.path, "rb") as file:
            file.seek(piece.offset)
            data = file.read(size)
        if google_crc32c.value(data) != crc:
            raise DataError(
                f"The rows at byte {piece.offset} of the work file {self.path} are not the ones "
                "that were written, so they cannot be used. Run the same command again, which "
                "begins anew."
            )
        return _Reader(data)

    def _dictionaries(
        self, reader: _Reader
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, int]]:
        sizes = reader.array("<i8", 2 * len(self._ragged)).reshape(-1, 2)
        for keys, values in sizes.tolist():
            yield (
                reader.array("<u8", keys),
                reader.array("<i4", keys),
                reader.array("<i4", keys),
                values,
            )

    def between(self, start: int, end: int) -> list[SpoolPiece]:
        """The pieces that hold rows of `[start, end)`."""
        first = max(0, bisect.bisect_right(self.pieces, start, key=lambda p: p.first_row) - 1)
        last = bisect.bisect_left(self.pieces, end, key=lambda p: p.first_row)
        return self.pieces[first:last] if start < end else []

    def remove(self) -> None:
        """Deletes the file."""
        self._file.close()
        os.unlink(self.path)


class _Reader:
    """Arrays from bytes, one after the other."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._offset = 0

    def array(self, dtype: str | np.dtype, count: int) -> np.ndarray:
        array = np.frombuffer(self._data, dtype, count, self._offset)
        self._offset += array.nbytes
        return array
