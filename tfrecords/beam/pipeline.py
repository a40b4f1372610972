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
import json
from collections.abc import Iterator, Sequence

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pvalue import AsIter, AsSingleton

from tfrecords import dataset_info, files, writer
from tfrecords.beam import steps
from tfrecords.beam.errors import sentence
from tfrecords.beam.layout import layout, positions
from tfrecords.beam.output_folder import OutputFolder
from tfrecords.beam.units import UNIT_BYTES, Unit, check_unchanged, cut, open_raw, state
from tfrecords.conversion import features, learnt_numbers
from tfrecords.conversion.formats import InputFormat
from tfrecords.conversion.options import Options
from tfrecords.conversion.vocabulary import Vocabulary
from tfrecords.errors import DataError
from tfrecords.folder import lock_folder
from tfrecords.unchanged import FileState

# A worker holds a file's rows two or three times while it puts them in order.
_FILE_BYTES = 128 << 20
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
    description = learnt_numbers.described(format)
    if description is not None and learnt_numbers.to_learn(description):
        raise DataError(
            "Transforms that are learnt are for tfrecords.convert only; take the constants from "
            "the dataset.json of a conversion of some of the rows."
        )
    if options.by_row:
        raise DataError(
            f"--split={options.split} is for tfrecords.convert and tfrecords.convert_criteo only."
        )
    features.hotness(format, options)
    options.check_files(len(inputs))
    records_per_file = records_per_file or _records_per_file(format, options)
    with _locked(output_dir):
        before = [state(path) for path in inputs]
        folder = OutputFolder.open(output_dir, overwrite)
        try:
            with beam.Pipeline(options=pipeline_options) as pipeline:
                units = cut(before, format, unit_bytes)
                rows_per_file = records_per_file * options.rows_per_record
                _expand(pipeline, units, before, format, options, folder, rows_per_file)
        except BaseException as error:
            folder.discard()
            if isinstance(error, Exception):
                # What was found wrong may be what somebody is writing at this moment.
                check_unchanged(before)
                raise DataError(sentence(error)) from error
            raise
        return _rows(folder)


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


def _expand(
    pipeline: beam.Pipeline,
    units: Sequence[Unit],
    inputs: Sequence[FileState],
    format: InputFormat,
    options: Options,
    folder: OutputFolder,
    rows_per_file: int,
) -> None:
    """Adds the conversion to a pipeline."""
    how = (format, options)
    paths = [state.path for state in inputs]
    parsed = (
        pipeline
        | "Units" >> beam.Create(units)
        | "Spread" >> beam.Reshuffle()
        | "Parse" >> beam.FlatMap(steps.parse, format).with_outputs(steps.SUMMARIES, main="chunks")
    )
    chunks = parsed["chunks"]
    where = AsSingleton(
        parsed[steps.SUMMARIES]
        | "All summaries" >> beam.combiners.ToList()
        | "Positions" >> beam.Map(positions, paths, *how)
    )
    if options.keep_negatives < 1:
        kept = (
            chunks
            | "Count kept rows" >> beam.Map(steps.count_kept, where, options)
            | "All kept rows" >> beam.combiners.ToList()
        )
    else:
        kept = pipeline | "All rows are kept" >> beam.Create([[]])
    # All that such a step needs comes as side inputs: the direct runner does not get along with a
    # step whose main input a side input is made of.
    plan = AsSingleton(
        pipeline
        | "Once" >> beam.Create([options])
        | "Layout" >> beam.Map(layout, where, AsSingleton(kept), rows_per_file)
    )
    vocabularies = AsSingleton(
        chunks
        | "Count values" >> beam.FlatMap(steps.count_values, where, plan, format)
        | "Add up counts" >> beam.CombinePerKey(steps.MergeCounts())
        | "Leave out rare values" >> beam.Map(steps.frequent, *how)
        | "Gather columns" >> beam.GroupByKey()
        | "Write vocabularies" >> beam.Map(steps.write_vocabulary, *how, folder)
        | "All vocabularies" >> beam.combiners.ToList()
    )
    written = (
        chunks
        | "Make ids" >> beam.ParDo(steps.SendRows(*how), where, plan, vocabularies)
        | "Gather files" >> beam.GroupByKey()
        | "Write files" >> beam.Map(steps.write_file, plan, vocabularies, *how, folder)
    )
    (
        pipeline
        | "At last" >> beam.Create([tuple(inputs)])
        | "Finish"
        >> beam.Map(steps.finish, where, plan, vocabularies, AsIter(written), *how, folder)
    )


def _records_per_file(format: InputFormat, options: Options) -> int:
    """So that a file is of about 128 MiB (ragged columns taken for one id a row)."""
    # Only the width of an id counts here, for which the sizes of vocabularies hardly matter.
    sizes = [Vocabulary.sized(column, 0, 0) for column in format.columns]
    schema = features.schema(format, options, sizes)
    words = 1 + len(schema.dense)
    for column in schema.categorical:
        words += (column.hotness or 2) * column.dtype.itemsize // 4
    record_bytes = 4 * words * options.rows_per_record
    return max(1, min(writer.RECORDS_PER_FILE, _FILE_BYTES // record_bytes))


def _rows(folder: OutputFolder) -> dict[str, int]:
    with open_raw(FileSystems.join(folder.path, dataset_info.FILE_NAME)) as file:
        splits = json.loads(file.read())["splits"]
    return {name: split["rows"] for name, split in splits.items()}
