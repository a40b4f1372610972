"""What the workers do, step by step."""

from __future__ import annotations

import collections
import dataclasses
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import google_crc32c
import numpy as np
from apache_beam.utils import shared

from tfrecords import block, writer
from tfrecords.beam.layout import KeptRows, Layout, PieceKey, Positions, Sampling, Summary
from tfrecords.beam.output_folder import OutputFolder
from tfrecords.beam.units import Unit, check_unchanged, open_raw, pieces
from tfrecords.conversion import counting, features, labels, vocabulary_files
from tfrecords.conversion.encoding import EncodedRows, encode
from tfrecords.conversion.formats import InputFormat
from tfrecords.conversion.how_it_was_made import how_it_was_made
from tfrecords.conversion.options import Options
from tfrecords.conversion.packed_rows import PackedRows, Packing, joined
from tfrecords.conversion.vocabulary import Counts, Vocabulary, VocabularyBuilder
from tfrecords.dataset_info import DatasetInfo, FileInfo, SplitInfo, VocabularyInfo
from tfrecords.errors import DataError
from tfrecords.hashing import hash_numbers
from tfrecords.odd_labels import FAIL, LabelRange
from tfrecords.schema import Schema
from tfrecords.unchanged import FileState

SUMMARIES = "summaries"
# Parts of a vocabulary, by a hash of the value, that different workers merge.
_PARTS = 16


@dataclasses.dataclass(frozen=True)
class Chunk:
    """The rows of a piece."""

    key: PieceKey
    rows: EncodedRows


@dataclasses.dataclass(frozen=True)
class VocabularyFile:
    """The vocabulary of a column, and where it is in the work folder."""

    column: int
    info: VocabularyInfo
    path: str


@dataclasses.dataclass(frozen=True)
class WrittenFile:
    """A file of records in the work folder.

    Attributes:
        split: Its split.
        number: Its number within the split.
        info: Its description, with the name that it will have.
        path: Where it is now.
        label_sums: Sum of the labels of each record.
        labels: Whether its labels differ.
    """

    split: str
    number: int
    info: FileInfo
    path: str
    label_sums: tuple[float, ...]
    labels: LabelRange


def parse(unit: Unit, format: InputFormat) -> Iterator[Any]:
    """From units to chunks; and to a `Summary` of every piece."""
    for piece in pieces(format, unit):
        parsed = format.parse(piece)
        key = unit.file, piece.start
        rows = 0 if parsed.rows is None else len(parsed.rows)
        summary = Summary(
            key,
            piece.first_line,
            parsed.lines,
            rows,
            dict(collections.Counter(bad.kind for bad in parsed.bad)),
            parsed.bad[0] if parsed.bad else None,
            parsed.label_values,
        )
        yield beam.pvalue.TaggedOutput(SUMMARIES, summary)
        if parsed.rows is not None and rows:
            yield Chunk(key, encode(parsed.rows))


def count_kept(chunk: Chunk, positions: Positions, options: Options) -> KeptRows:
    """Counts the rows of a chunk that negative sub-sampling keeps."""
    sampling = Sampling.of(options, positions)
    return sampling.kept_rows(chunk.key, chunk.rows.label, positions.pieces[chunk.key].first_row)


def _numbered(
    chunk: Chunk, positions: Positions, layout: Layout, start: int, end: int
) -> tuple[np.ndarray | None, np.ndarray]:
    """The rows of a chunk whose new numbers are from `start` to `end`.

    Returns:
        bool `[rows]`, None for all; and their new numbers, int64.
    """
    kept = layout.sampling.mask(chunk.rows.label, positions.pieces[chunk.key].first_row)
    there = np.arange(len(chunk.rows)) if kept is None else np.flatnonzero(kept)
    first = layout.first_rows[chunk.key]
    wanted = slice(max(0, start - first), max(0, end - first))
    numbers: np.ndarray = (first + np.arange(len(there)))[wanted]
    if len(numbers) == len(chunk.rows):
        return None, numbers
    mask: np.ndarray = np.zeros(len(chunk.rows), np.bool_)
    mask[there[wanted]] = True
    return mask, numbers


def count_values(
    chunk: Chunk, positions: Positions, layout: Layout, format: InputFormat
) -> Iterator[tuple[tuple[int, int], Counts]]:
    """Counts the values of the rows that count: `((column, part), counts)`."""
    first = layout.first_rows[chunk.key]
    if first >= layout.counted:
        return
    mask, _ = _numbered(chunk, positions, layout, 0, layout.counted)
    rank = positions.pieces[chunk.key].number * counting.PIECE_RANKS
    for index, counts in counting.counted(chunk.rows.columns, format.columns, mask, rank):
        parts = hash_numbers(counts.keys) % np.uint64(_PARTS)
        # The first one also where it is empty: a column without any value has a vocabulary too.
        for part in np.union1d(parts, np.zeros(int(not first), np.uint64)).tolist():
            inside = parts == part
            yield (
                (index, int(part)),
                Counts(counts.keys[inside], counts.counts[inside], counts.ranks[inside]),
            )


class MergeCounts(beam.CombineFn):
    """Adds up `Counts`; memory is bounded by the number of different values."""

    def create_accumulator(self) -> VocabularyBuilder:
        """Nothing counted."""
        return VocabularyBuilder()

    def add_input(self, accumulator: VocabularyBuilder, counts: Counts) -> VocabularyBuilder:
        """Adds the counts of a piece."""
        accumulator.add(counts)
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[VocabularyBuilder]) -> VocabularyBuilder:
        """Adds up what several workers have counted."""
        result = VocabularyBuilder()
        for accumulator in accumulators:
            result.add(accumulator.merge())
        return result

    def compact(self, accumulator: VocabularyBuilder) -> VocabularyBuilder:
        """Makes it small before it is sent."""
        accumulator.merge()
        return accumulator

    def extract_output(self, accumulator: VocabularyBuilder) -> Counts:
        """The sums."""
        return accumulator.merge()


def frequent(
    part: tuple[tuple[int, int], Counts], format: InputFormat, options: Options
) -> tuple[int, Counts]:
    """The values of a part of a column that occur often enough to get an id."""
    (index, _), counts = part
    min_count = format.columns[index].min_count
    kept = counts.counts >= (options.min_count if min_count is None else min_count)
    return index, Counts(counts.keys[kept], counts.counts[kept], counts.ranks[kept])


def write_vocabulary(
    column: tuple[int, Iterable[Counts]],
    format: InputFormat,
    options: Options,
    folder: OutputFolder,
) -> VocabularyFile:
    """Writes a vocabulary, its values in the order of their first occurrence."""
    index, parts = column
    counts = list(parts)
    ranks = np.concatenate([part.ranks for part in counts])
    keys = np.concatenate([part.keys for part in counts])[np.argsort(ranks, kind="stable")]
    content = io.BytesIO()
    vocabulary_files.write_keys(content, keys)
    data = content.getvalue()
    name = vocabulary_files.file_name(format.columns[index].name)
    path, file = folder.create(name)
    with file:
        file.write(data)
    crc = f"{google_crc32c.value(data):08x}"
    info = VocabularyInfo(name, options.reserved, len(keys), len(data), crc)
    return VocabularyFile(index, info, path)


def _schema(
    format: InputFormat, options: Options, vocabularies: Sequence[VocabularyFile]
) -> Schema:
    """The schema, which depends on the sizes of the vocabularies but not on what is in them."""
    values = {file.column: file.info.values for file in vocabularies}
    return features.schema(
        format,
        options,
        [
            Vocabulary.sized(column, values.get(index, 0), options.reserved)
            for index, column in enumerate(format.columns)
        ],
    )


def _features(
    format: InputFormat, options: Options, files: Sequence[VocabularyFile]
) -> features.Features:
    paths = {file.column: file.path for file in files}
    found = []
    for index, column in enumerate(format.columns):
        if column.vocabulary_size is not None:
            found.append(Vocabulary.sized(column, 0, options.reserved))
            continue
        with open_raw(paths[index]) as file:
            keys = np.load(io.BytesIO(file.read()))
        found.append(Vocabulary.in_order(keys, options.reserved))
    return features.Features(format.columns, found, options)


class SendRows(beam.DoFn):
    """Gives rows their ids and sends them to their files: `((split, file), rows)`."""

    def __init__(self, format: InputFormat, options: Options) -> None:
        self._format = format
        self._options = options
        # One copy of the vocabularies for all threads of a process.
        self._shared = shared.Shared()

    def process(
        self,
        chunk: Chunk,
        positions: Positions,
        layout: Layout,
        vocabularies: Sequence[VocabularyFile],
    ) -> Iterator[tuple[tuple[str, int], PackedRows]]:
        """Sends the rows of a chunk."""
        made = self._shared.acquire(
            lambda: _features(self._format, self._options, vocabularies),
            tuple(file.path for file in vocabularies),
        )
        packing = Packing.of(_schema(self._format, self._options, vocabularies))
        for part in layout.ranges:
            mask, numbers = _numbered(chunk, positions, layout, part.start, part.end)
            if not len(numbers):
                continue
            packed = packing.pack(numbers, *made(chunk.rows, mask))
            files = layout.orders[part.split].files(numbers)
            for number, rows in packing.by_place(packed, files):
                yield (part.split, number), rows


def write_file(
    file: tuple[tuple[str, int], Iterable[PackedRows]],
    layout: Layout,
    vocabularies: Sequence[VocabularyFile],
    format: InputFormat,
    options: Options,
    folder: OutputFolder,
) -> WrittenFile:
    """Writes the rows of a file, which may come in any order.

    Raises:
        DataError: If a value is not allowed; names column, row and value.
    """
    (split, number), parts = file
    order = layout.orders[split]
    schema = _schema(format, options, vocabularies)
    packing = Packing.of(schema)
    rows = joined(list(parts))
    rows = packing.take(rows, order.permutation(rows.keys.view(np.int64)))
    name = writer.file_name(split, number)
    path, stream = folder.create(name)
    records = writer.RecordFile(stream, name, schema)
    sums, label_range = [], LabelRange()
    starts = np.arange(0, len(rows), options.rows_per_record)
    for start, record in zip(starts.tolist(), packing.cut(rows, starts), strict=True):
        columns = writer.as_columns(schema, *packing.unpack(record))
        block.check(schema, columns, number * order.rows_per_file + start)
        sums.append(records.write(columns))
        label_range.add(columns[schema.label])
    return WrittenFile(split, number, records.close(), path, tuple(sums), label_range)


def finish(
    inputs: Sequence[FileState],
    positions: Positions,
    layout: Layout,
    vocabularies: Sequence[VocabularyFile],
    files: Iterable[WrittenFile],
    format: InputFormat,
    options: Options,
    folder: OutputFolder,
) -> None:
    """Makes a data set of what was written; once, or again if a worker died while it did.

    Args:
        inputs: What the input's files were before they were read.
        positions: Where the pieces of the input stand.
        layout: Where its rows went.
        vocabularies: All vocabularies.
        files: All files of records.
        format: What the input holds.
        options: How it was converted.
        folder: Where the data set goes.

    Raises:
        DataError: If an input file changed while it was read, or rows were lost.
    """
    check_unchanged(inputs)
    of_split = collections.defaultdict(list)
    for file in files:
        of_split[file.split].append(file)
    splits = {}
    moves = {}
    for part in layout.ranges:
        written = sorted(of_split[part.split], key=lambda file: file.number)
        rows = sum(file.info.rows for file in written)
        if rows != part.end - part.start:
            raise DataError(
                f"The split {part.split!r} has {rows} rows, where {part.end - part.start} were "
                "read: the runner lost or doubled some. Convert again."
            )
        label_sum, label_range = 0.0, LabelRange()
        for file in written:
            label_range.add_range(file.labels)
            moves[file.info.path] = file.path
            # Record after record, as `DatasetWriter` does, so that the sum has the same bits.
            for of_record in file.label_sums:
                label_sum += of_record
        if options.on_odd_labels == FAIL:
            label_range.check(part.split, labels.holds(format, positions.label_values))
        infos = tuple(file.info for file in written)
        splits[part.split] = SplitInfo(rows, label_sum, options.rows_per_record, infos)
    vocabularies = sorted(vocabularies, key=lambda file: file.column)
    moves.update({file.info.path: file.path for file in vocabularies})
    info = DatasetInfo(
        schema=_schema(format, options, vocabularies),
        splits=splits,
        how_it_was_made=how_it_was_made(
            format,
            options,
            [{"name": os.path.basename(state.path), "bytes": state.size} for state in inputs],
            rows_read=sum(positions.file_rows),
            rows_left_out_for_tuning=layout.rows - layout.ranges[-1].end,
            negative_rows_dropped=sum(positions.file_rows) - layout.rows,
            bad_rows_skipped=positions.skipped,
        ),
        vocabularies={format.columns[file.column].name: file.info for file in vocabularies},
    )
    folder.commit(moves, info.to_bytes())
