"""Converts click logs to a data set folder on many machines, by Apache Beam.

```
python -m tfrecords.convert_beam --format=terabyte --input=gs://BUCKET/criteo \\
    --output_dir=gs://BUCKET/terabyte --max_index_range=40000000 --shuffle=total \\
    --runner=DataflowRunner --project=PROJECT --region=REGION --temp_location=gs://BUCKET/tmp
python -m tfrecords.convert_beam --schema=clicks.toml --input=clicks.csv --output_dir=clicks \\
    --direct_num_workers=4 --direct_running_mode=multi_processing
```

The options of the conversion are those of `tfrecords.convert_criteo`, or, with `--schema`, of
`tfrecords.convert`, and so is the data set, byte for byte where files have as many records. All
other options are Beam's own. Without `--runner` all happens on this machine and in its memory.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from tfrecords import entry_point
from tfrecords.conversion import command_line, criteo_flags, options, table_flags
from tfrecords.conversion.criteo import day_files
from tfrecords.conversion.formats import InputFormat
from tfrecords.errors import DataError
from tfrecords.progress import Progress

_OVERWRITE = flags.DEFINE_bool(
    "overwrite",
    False,
    "Replace a data set that is in --output_dir, once the new one is whole. While its files are "
    "moved there (seconds to minutes, by the file system), there is neither of the two.",
)
_RECORDS_PER_FILE = flags.DEFINE_integer(
    "records_per_file",
    None,
    "Records in each file but the last of a split. A worker holds two or three times a file in "
    "memory. Default: as many as make 128 MiB, at most 128.",
    lower_bound=1,
    upper_bound=2**31,
)

# Their job servers know options that Beam's Python does not.
_RUNNERS_WITH_OPTIONS = ("Portable", "Flink", "Spark")
# A whole machine's limits, and resuming, which is left to the runner.
_NOT_READ = ("memory_gb", "fresh")
_HERE_ONLY = ("vocabulary_of", "extend_vocabulary")
_CRITEO_ONLY = ("format", "days", "max_index_range", "reference", "bucketize_dense")

# So that --help shows them too.
flags.adopt_module_key_flags(command_line)
flags.adopt_module_key_flags(criteo_flags)
flags.adopt_module_key_flags(table_flags)


def main(argv: Sequence[str]) -> None:
    """Converts, as the flags say."""
    progress = Progress()
    try:
        rows = _convert(list(argv[1:]))
    except KeyboardInterrupt:
        print("error: Interrupted; nothing was changed.", file=sys.stderr)
        sys.exit(entry_point.INTERRUPTED)
    counts = ", ".join(f"{count:,} rows {name}" for name, count in rows.items())
    progress.say(f"Wrote {command_line.OUTPUT_DIR.value}: {counts}.")


def _convert(beam_arguments: list[str]) -> dict[str, int]:
    try:
        from apache_beam.io.filesystems import FileSystems
        from apache_beam.options.pipeline_options import PipelineOptions

        from tfrecords.beam import pipeline, units
    except ImportError as error:
        raise DataError(
            f"tfrecords.convert_beam needs Apache Beam ({error}): pip install 'tf-dlrm[beam]'."
        ) from error
    logging.getLogger().setLevel(logging.WARNING)
    if not any(argument.split("=")[0] == "--runner" for argument in beam_arguments):
        beam_arguments.append(f"--runner={pipeline.DIRECT_RUNNER}")
        # Workers of this machine log what is told as a sentence in the end.
        logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    pipeline_options = PipelineOptions(beam_arguments)
    _check_arguments(pipeline_options, beam_arguments)
    FileSystems.set_options(pipeline_options)
    inputs, output_dir = command_line.places()
    source: InputFormat
    if table_flags.SCHEMA.value:
        _refuse(_CRITEO_ONLY, "says what Criteo's files hold, so it contradicts --schema")
        source = table_flags.make_format(None)
        how = command_line.how_to_convert(options.LAST_SEVENTH, False)
    else:
        source = criteo_flags.make_format(None)
        inputs = criteo_flags.inputs(
            inputs, lambda named, days: day_files(named, days, units.is_folder, units.is_file)
        )
        how = command_line.how_to_convert(
            criteo_flags.default_split(), criteo_flags.REFERENCE.value
        )
    for files in command_line.held_out():
        inputs = [*inputs, *files]
    _refuse(_NOT_READ, "is for the conversion on one machine; the runner decides it here")
    _refuse(_HERE_ONLY, "is for tfrecords.convert and tfrecords.convert_criteo only")
    return pipeline.convert(
        inputs,
        output_dir,
        source,
        how,
        pipeline_options,
        overwrite=_OVERWRITE.value,
        records_per_file=_RECORDS_PER_FILE.value,
    )


def _refuse(names: Sequence[str], why: str) -> None:
    for name in names:
        if flags.FLAGS[name].present:
            raise DataError(f"--{name} {why}; leave it out.")


def _check_arguments(pipeline_options: Any, arguments: Sequence[str]) -> None:
    """Refuses what neither this program nor Beam knows, which Beam itself would only log."""
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if not argument.startswith("-") and (not before.startswith("-") or "=" in before):
            raise DataError(f"The argument {argument!r} is unknown; all options are flags.")
    all_options = pipeline_options.get_all_options(retain_unknown_options=True)
    runner = str(all_options.get("runner"))
    if any(name in runner for name in _RUNNERS_WITH_OPTIONS):
        return
    for name in sorted(set(all_options) - set(pipeline_options.get_all_options())):
        raise DataError(
            f"The option --{name} is neither one of tfrecords.convert_beam nor one of Apache "
            f"Beam's for the runner {runner.rsplit('.', 1)[-1]}."
        )


if __name__ == "__main__":
    entry_point.run(main, known_only=True)  # the others are Beam's
