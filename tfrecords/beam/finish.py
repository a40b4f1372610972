"""The last step: what was written becomes a data set."""

from __future__ import annotations

import collections
import os
from collections.abc import Iterable, Sequence

from tfrecords.beam.layout import Layout
from tfrecords.beam.output_folder import OutputFolder
from tfrecords.beam.positions import Positions
from tfrecords.beam.record_files import WrittenFile
from tfrecords.beam.steps import VocabularyFile, schema_of
from tfrecords.beam.units import check_unchanged
from tfrecords.conversion import labels
from tfrecords.conversion.formats import InputFormat
from tfrecords.conversion.how_it_was_made import how_it_was_made
from tfrecords.conversion.options import Options
from tfrecords.dataset_info import DatasetInfo, SplitInfo, VocabularyInfo
from tfrecords.errors import DataError
from tfrecords.odd_labels import FAIL, LabelRange
from tfrecords.unchanged import FileState


class Finish:
    """Describes the data set and puts it in its place.

    Args:
        folder: Where the data set goes.
        format: What the files hold.
        options: How they were converted.
        inputs: What the files were before they were read.
    """

    def __init__(
        self,
        folder: OutputFolder,
        format: InputFormat,
        options: Options,
        inputs: Sequence[FileState],
    ) -> None:
        self._folder = folder
        self._format = format
        self._options = options
        self._inputs = inputs

    def __call__(
        self,
        positions: Positions,
        layout: Layout,
        vocabularies: Sequence[VocabularyFile],
        files: Iterable[WrittenFile],
    ) -> None:
        """Does it once, or again if a worker died while it did.

        Raises:
            DataError: If an input file changed while it was read, or rows were lost.
        """
        check_unchanged(self._inputs)
        of_split: dict[str, list[WrittenFile]] = collections.defaultdict(list)
        for file in files:
            of_split[file.split].append(file)
        splits = {}
        moves: dict[str, str] = {}
        for part in layout.ranges:
            written = sorted(of_split[part.split], key=lambda file: file.number)
            splits[part.split] = _split(written, self._options.rows_per_record)
            if splits[part.split].rows != part.end - part.start:
                raise DataError(
                    f"The split {part.split!r} has {splits[part.split].rows} rows, where "
                    f"{part.end - part.start} were read: the runner lost or doubled some. "
                    "Convert again."
                )
            if self._options.on_odd_labels == FAIL:
                label_range = LabelRange()
                for file in written:
                    label_range.add_range(file.labels)
                label_range.check(part.split, labels.holds(self._format, positions.label_values))
            moves.update({file.info.path: file.path for file in written})
        reserved = 0 if self._options.reference else 1
        infos = {}
        for vocabulary in sorted(vocabularies, key=lambda file: file.column):
            name = self._format.columns[vocabulary.column].name
            infos[name] = VocabularyInfo(
                vocabulary.name, reserved, vocabulary.values, vocabulary.size, vocabulary.crc32c
            )
            moves[vocabulary.name] = vocabulary.path
        info = DatasetInfo(
            schema=schema_of(self._format, self._options, vocabularies),
            splits=splits,
            how_it_was_made=how_it_was_made(
                self._format,
                self._options,
                [
                    {"name": os.path.basename(state.path), "bytes": state.size}
                    for state in self._inputs
                ],
                rows_read=sum(positions.file_rows),
                rows_left_out_for_tuning=layout.rows - layout.ranges[-1].end,
                negative_rows_dropped=sum(positions.file_rows) - layout.rows,
                bad_rows_skipped=positions.skipped,
            ),
            vocabularies=infos,
        )
        self._folder.commit(moves, info.to_bytes())


def _split(files: Sequence[WrittenFile], rows_per_record: int) -> SplitInfo:
    # Record after record, as `DatasetWriter` adds them up, so that the sum has the same bits.
    label_sum = 0.0
    for file in files:
        for of_record in file.label_sums:
            label_sum += of_record
    rows = sum(file.info.rows for file in files)
    return SplitInfo(rows, label_sum, rows_per_record, tuple(file.info for file in files))
