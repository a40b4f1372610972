"""The conversion as an Apache Beam pipeline.

Units of the input are parsed once. What is parsed waits, as the runner sees fit (on disk, or in
memory under the direct runner), until the steps that need to know all of it have their side inputs:

    units -> parse -> chunks
                   -> summaries -> positions -> (kept rows) -> layout
    chunks, layout -> counts per (column, part) -> vocabularies -> vocabulary files
    chunks, layout, vocabularies -> rows per (split, file) -> record files -> dataset.json

The rows of every file are known from the number or the hash of a row alone, so the files hold the
same rows in the same records as those of `tfrecords.conversion`, whatever the number of workers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pvalue import AsIter, AsSingleton

from tfrecords import dataset_info, files, writer
from tfrecords.beam import counting, steps
from tfrecords.beam.errors import sentence
from tfrecords.beam.finish import Finish
from tfrecords.beam.layout import layout
from tfrecords.beam.output_folder import OutputFolder
from tfrecords.beam.positions import Positions, positions
from tfrecords.beam.record_files import records_per_file
from tfrecords.beam.units import UNIT_BYTES, check_unchanged, cut, states
from tfrecords.conversion import features, labels
from tfrecords.conversion.formats import InputFormat
from tfrecords.conversion.options import Options
from tfrecords.conversion.vocabulary import Vocabulary
from tfrecords.errors import DataError
from tfrecords.folder import lock_folder
from tfrecords.unchanged import FileState

# Beam's own direct runner of this process. Its name "DirectRunner" would first try to fetch a
# program called Prism.
DIRECT_RUNNER = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"


def convert(
    inputs: Sequence[str],
    output_dir: str,
    format: InputFormat,
    options: Options,
    pipeline_options: PipelineOptions | None = None,
    *,
    overwrite: bool = False,
    records_per_file: int | None = None,
    unit_bytes: int = UNIT_BYTES,
) -> dict[str, int]:
    """Converts files to a data set, on any of Beam's runners.

    Args:
        inputs: The files, in the order of time, on any of Beam's file systems.
        output_dir: The folder, likewise.
        format: What the files hold; must be picklable.
        options: How. (`memory_gb` is not read: each worker holds all vocabularies.)
        pipeline_options: Runner, workers and so on; None for the direct runner with one worker.
        overwrite: Whether a data set in `output_dir` is replaced, once the new one is whole.
        records_per_file: Records in each file but the last of a split; None for files of 128 MiB,
            but no more records than `tfrecords.writer` puts into a file.
        unit_bytes: Bytes of plain text that a worker reads in one go.

    Returns:
        Rows of each split.

    Raises:
        DataError: If input, output or options cannot be used, or another process is writing the
            same local folder; nothing is changed then.
    """
    pipeline_options = pipeline_options or PipelineOptions([f"--runner={DIRECT_RUNNER}"])
    FileSystems.set_options(pipeline_options)
    if records_per_file is not None and records_per_file < 1:
        raise DataError(f"--records_per_file must be at least 1, not {records_per_file}.")
    if not inputs:
        raise DataError("There is no input file.")
    features.hotness(format, options)
    options.check_files(len(inputs))
    with _locked(output_dir):
        conversion = Conversion(
            tuple(inputs),
            tuple(states(inputs)),
            OutputFolder.open(output_dir, overwrite),
            format,
            options,
            records_per_file or _records_per_file(format, options),
            unit_bytes,
        )
        try:
            with beam.Pipeline(options=pipeline_options) as pipeline:
                conversion.expand(pipeline)
        except BaseException as error:
            _discard(conversion.folder)
            if isinstance(error, Exception):
                # What was found wrong may be what somebody is writing at this moment.
                check_unchanged(conversion.states)
                raise DataError(sentence(error)) from error
            raise
        return _rows(conversion.folder)


@contextlib.contextmanager
def _locked(output_dir: str) -> Iterator[None]:
    """Keeps other processes from writing the same folder, where it is a local one."""
    if files.is_remote(output_dir):
        yield  # stores have no locks
        return
    lock = lock_folder(output_dir)
    try:
        yield
    finally:
        lock.release(remove=True)


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What the pipeline is made of.

    Attributes:
        inputs: The files.
        states: What they were before they were read.
        folder: Where the data set goes.
        format: What the files hold.
        options: How to convert.
        records_per_file: Records in each file but the last of a split.
        unit_bytes: Bytes of plain text that a worker reads in one go.
    """

    inputs: tuple[str, ...]
    states: tuple[FileState, ...]
    folder: OutputFolder
    format: InputFormat
    options: Options
    records_per_file: int
    unit_bytes: int

    def expand(self, pipeline: beam.Pipeline) -> None:
        """Adds the conversion to a pipeline."""
        options, format, folder = self.options, self.format, self.folder
        inputs, skip = self.inputs, options.on_bad_row == "skip"
        rows_per_file = self.records_per_file * options.rows_per_record
        parsed = (
            pipeline
            | "Units"
            >> beam.Create(
                cut(inputs, [state.size for state in self.states], format, self.unit_bytes)
            )
            | "Spread" >> beam.Reshuffle()
            | "Parse"
            >> beam.ParDo(steps.Parse(format)).with_outputs(steps.SUMMARIES, main="chunks")
        )
        chunks = parsed["chunks"]
        where = (
            parsed[steps.SUMMARIES]
            | "All summaries" >> beam.combiners.ToList()
            | "Positions" >> beam.Map(positions, inputs, skip)
            | "Check label values" >> beam.Map(_checked, format, options)
        )
        if options.keep_negatives < 1:
            kept = (
                chunks
                | "Count kept rows" >> beam.ParDo(steps.CountKept(options), AsSingleton(where))
                | "All kept rows" >> beam.combiners.ToList()
            )
        else:
            kept = pipeline | "All rows are kept" >> beam.Create([[]])
        # All that such a step needs comes as side inputs: the direct runner does not get along
        # with a step whose main input a side input is made of.
        plan = (
            pipeline
            | "Once" >> beam.Create([options])
            | "Layout" >> beam.Map(layout, AsSingleton(where), AsSingleton(kept), rows_per_file)
        )
        vocabularies = (
            chunks
            | "Count values"
            >> beam.ParDo(steps.CountValues(format), AsSingleton(where), AsSingleton(plan))
            | "Add up counts" >> beam.CombinePerKey(counting.MergeCounts())
            | "Leave out rare values" >> beam.Map(_frequent, format, options)
            | "Gather columns" >> beam.GroupByKey()
            | "Write vocabularies" >> beam.ParDo(steps.WriteVocabulary(folder, format))
            | "All vocabularies" >> beam.combiners.ToList()
        )
        files = (
            chunks
            | "Make ids"
            >> beam.ParDo(
                steps.SendRows(format, options),
                AsSingleton(where),
                AsSingleton(plan),
                AsSingleton(vocabularies),
            )
            | "Gather files" >> beam.GroupByKey()
            | "Write files"
            >> beam.ParDo(
                steps.WriteFile(format, options, folder, rows_per_file),
                AsSingleton(plan),
                AsSingleton(vocabularies),
            )
        )
        (
            pipeline
            | "At last" >> beam.Create([Finish(folder, format, options, self.states)])
            | "Finish"
            >> beam.Map(
                Finish.__call__,
                AsSingleton(where),
                AsSingleton(plan),
                AsSingleton(vocabularies),
                AsIter(files),
            )
        )


def _checked(where: Positions, format: InputFormat, options: Options) -> Positions:
    labels.check_values(format, where.label_values, options.on_odd_labels)
    return where


def _frequent(
    item: tuple[tuple[int, int], counting.Counts], format: InputFormat, options: Options
) -> tuple[int, counting.Counts]:
    (index, _), counts = item
    min_count = format.columns[index].min_count
    return index, counting.frequent(counts, options.min_count if min_count is None else min_count)


def _records_per_file(format: InputFormat, options: Options) -> int:
    # Only the width of an id counts here, for which the sizes of vocabularies hardly matter.
    sizes = [Vocabulary(None, None, column.vocabulary_size or 1) for column in format.columns]
    schema = features.schema(format, options, sizes)
    return records_per_file(schema, options.rows_per_record, writer.RECORDS_PER_FILE)


def _discard(folder: OutputFolder) -> None:
    try:
        folder.discard()
    except Exception as error:
        logging.getLogger(__name__).warning("%s could not be removed: %s", folder.work, error)


def _rows(folder: OutputFolder) -> dict[str, int]:
    description: Mapping[str, Any] = json.loads(folder.read(dataset_info.FILE_NAME))
    return {name: split["rows"] for name, split in description["splits"].items()}
