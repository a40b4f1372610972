"""What the workers do, step by step."""

from __future__ import annotations

import collections
import dataclasses
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.utils import shared

from tfrecords.beam import counting, packing
from tfrecords.beam.layout import KeptRows, Layout, Sampling
from tfrecords.beam.output_folder import OutputFolder
from tfrecords.beam.packing import PackedRows
from tfrecords.beam.positions import PieceKey, Positions, Summary
from tfrecords.beam.record_files import WrittenFile, write_file
from tfrecords.beam.units import Unit, open_raw, pieces
from tfrecords.conversion import features, vocabulary_files
from tfrecords.conversion.encoding import EncodedRows, count, encode, value_mask
from tfrecords.conversion.formats import InputFormat
from tfrecords.conversion.options import Options
from tfrecords.conversion.vocabulary import Counts, Vocabulary

SUMMARIES = "summaries"
# Positions within a piece are below it.
_PIECE_RANKS = 1 << 32


@dataclasses.dataclass(frozen=True)
class Chunk:
    """The rows of a piece.

    Attributes:
        key: The piece: file, and where in it.
        rows: Its rows.
    """

    key: PieceKey
    rows: EncodedRows


@dataclasses.dataclass(frozen=True)
class VocabularyFile:
    """A vocabulary in the work folder.

    Attributes:
        column: Number of the categorical column.
        name: The name that it will have, relative to the data set.
        values: Number of values with an id.
        path: Where it is now.
        size: Its size in bytes.
        crc32c: CRC-32C of the file, eight hex digits.
    """

    column: int
    name: str
    values: int
    path: str
    size: int
    crc32c: str


class Parse(beam.DoFn):
    """From units to chunks; and to a `Summary` of every piece."""

    def __init__(self, format: InputFormat) -> None:
        self._format = format

    def process(self, unit: Unit) -> Iterator[Any]:
        """Reads and parses a unit."""
        for piece in pieces(self._format, unit):
            parsed = self._format.parse(piece)
            rows = 0 if parsed.rows is None else len(parsed.rows)
            bad = dict(collections.Counter(bad.kind for bad in parsed.bad))
            summary = Summary(
                unit.file,
                piece.start,
                piece.first_line,
                parsed.lines,
                rows,
                bad,
                parsed.bad[0] if parsed.bad else None,
                parsed.label_values,
            )
            yield beam.pvalue.TaggedOutput(SUMMARIES, summary)
            if parsed.rows is not None and rows:
                yield Chunk((unit.file, piece.start), encode(parsed.rows))


class CountKept(beam.DoFn):
    """Counts the rows of a chunk that negative sub-sampling keeps."""

    def __init__(self, options: Options) -> None:
        self._options = options

    def process(self, chunk: Chunk, positions: Positions) -> Iterator[KeptRows]:
        """Counts them."""
        sampling = Sampling.of(self._options, positions)
        first_row = positions.pieces[chunk.key].first_row
        yield sampling.kept_rows(chunk.key, chunk.rows.label, first_row)


class CountValues(beam.DoFn):
    """Counts the values of a chunk: `((column, part), counts)`."""

    def __init__(self, format: InputFormat) -> None:
        self._columns = format.columns

    def process(
        self, chunk: Chunk, positions: Positions, layout: Layout
    ) -> Iterator[tuple[tuple[int, int], Counts]]:
        """Counts the values of the rows that count."""
        first = layout.first_rows[chunk.key]
        if first >= layout.counted:
            return
        place = positions.pieces[chunk.key]
        mask = layout.sampling.mask(chunk.rows.label, place.first_row)
        rows = len(chunk.rows) if mask is None else int(mask.sum())
        if first + rows > layout.counted:
            mask = _part(mask, len(chunk.rows), 0, layout.counted - first)
        rank = place.number * _PIECE_RANKS
        for index, column in enumerate(self._columns):
            if column.vocabulary_size is not None:
                continue
            encoded = chunk.rows.columns[index]
            if mask is None:
                counts = Counts(
                    encoded.keys,
                    encoded.counts.astype(np.int64),
                    encoded.firsts.astype(np.int64) + rank,
                )
            else:
                values = np.flatnonzero(value_mask(encoded, mask, column.hotness or 1))
                numbers, firsts = count(encoded.codes[values], len(encoded.keys), values)
                there = np.flatnonzero(numbers)
                counts = Counts(encoded.keys[there], numbers[there], firsts[there] + rank)
            if not first:
                # So that a column without any value has a vocabulary too.
                yield (index, 0), counting.NOTHING
            yield from counting.in_parts(index, counts)


def _part(mask: np.ndarray | None, rows: int, start: int, end: int) -> np.ndarray:
    """Of the rows that `mask` keeps (None: all), those from number `start` to `end`."""
    kept = np.arange(rows) if mask is None else np.flatnonzero(mask)
    part: np.ndarray = np.zeros(rows, np.bool_)
    part[kept[max(0, start) : max(0, end)]] = True
    return part


class WriteVocabulary(beam.DoFn):
    """Writes a vocabulary, its values in the order of their ids."""

    def __init__(self, folder: OutputFolder, format: InputFormat) -> None:
        self._folder = folder
        self._columns = format.columns

    def process(self, column: tuple[int, Iterable[Counts]]) -> Iterator[VocabularyFile]:
        """Writes it."""
        index, parts = column
        keys = counting.in_order_of_ids(parts)
        name = vocabulary_files.file_name(self._columns[index].name)
        content = io.BytesIO()
        vocabulary_files.write_keys(content, keys)
        path, size, crc = self._folder.write(name, [content.getvalue()])
        yield VocabularyFile(index, name, len(keys), path, size, crc)


class Vocabularies:
    """The vocabularies in a worker's memory."""

    def __init__(
        self, format: InputFormat, options: Options, files: Sequence[VocabularyFile]
    ) -> None:
        by_column = {file.column: file for file in files}
        reserved = 0 if options.reference else 1
        found = []
        for index, column in enumerate(format.columns):
            if column.vocabulary_size is not None:
                found.append(Vocabulary(None, None, column.vocabulary_size))
                continue
            with open_raw(by_column[index].path) as file:
                keys = np.load(io.BytesIO(file.read()))
            found.append(Vocabulary.in_order(keys, reserved))
        self.all = tuple(found)
        self.schema = features.schema(format, options, found)


class SendRows(beam.DoFn):
    """Gives rows their ids and sends them to their files: `((split, file), rows)`."""

    def __init__(self, format: InputFormat, options: Options) -> None:
        self._format = format
        self._options = options
        # One copy for all threads of a process.
        self._shared = shared.Shared()
        self._vocabularies: Vocabularies | None = None

    def process(
        self,
        chunk: Chunk,
        positions: Positions,
        layout: Layout,
        vocabularies: Sequence[VocabularyFile],
    ) -> Iterator[tuple[tuple[str, int], PackedRows]]:
        """Sends the rows of a chunk."""
        tag = tuple(file.path for file in vocabularies)
        self._vocabularies = self._shared.acquire(
            lambda: Vocabularies(self._format, self._options, vocabularies), tag
        )
        schema = self._vocabularies.schema
        make = features.Features(self._format.columns, self._vocabularies.all, self._options)
        place = positions.pieces[chunk.key]
        kept = layout.sampling.mask(chunk.rows.label, place.first_row)
        first = layout.first_rows[chunk.key]
        rows = len(chunk.rows) if kept is None else int(kept.sum())
        for part in layout.ranges:
            start, end = max(first, part.start), min(first + rows, part.end)
            if start >= end:
                continue
            mask = kept
            if end - start < rows:
                mask = _part(kept, len(chunk.rows), start - first, end - first)
            columns, label = make(chunk.rows, mask)
            numbers: np.ndarray = np.arange(start, end, dtype=np.int64)
            packed = packing.pack(schema, columns, label, numbers)
            files = layout.cuts[part.split].files(numbers)
            for number, of_file in packing.by_file(schema, packed, files):
                yield (part.split, number), of_file


class WriteFile(beam.DoFn):
    """Writes the rows of a file."""

    def __init__(
        self, format: InputFormat, options: Options, folder: OutputFolder, rows_per_file: int
    ) -> None:
        self._format = format
        self._options = options
        self._folder = folder
        self._rows_per_file = rows_per_file

    def process(
        self,
        file: tuple[tuple[str, int], Iterable[PackedRows]],
        layout: Layout,
        vocabularies: Sequence[VocabularyFile],
    ) -> Iterator[WrittenFile]:
        """Writes them."""
        (split, number), parts = file
        yield write_file(
            self._folder,
            schema_of(self._format, self._options, vocabularies),
            split,
            number,
            parts,
            layout.cuts[split].order,
            self._options.rows_per_record,
            number * self._rows_per_file,
        )


def schema_of(format: InputFormat, options: Options, vocabularies: Sequence[VocabularyFile]) -> Any:
    """The schema, which depends on the sizes of the vocabularies but not on what is in them."""
    values: Mapping[int, int] = {file.column: file.values for file in vocabularies}
    reserved = 0 if options.reference else 1
    return features.schema(
        format,
        options,
        [
            Vocabulary(None, None, column.vocabulary_size)
            if column.vocabulary_size is not None
            else Vocabulary(None, None, max(1, reserved + values[index]), reserved)
            for index, column in enumerate(format.columns)
        ],
    )
