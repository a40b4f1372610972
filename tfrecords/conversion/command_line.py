"""The flags that the converters of all formats have in common; for entry points only."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from absl import flags

from tfrecords import odd_labels
from tfrecords.conversion import multi_hot, options
from tfrecords.conversion.convert import convert
from tfrecords.conversion.formats import InputFormat
from tfrecords.conversion.memory import Memory
from tfrecords.conversion.options import Options
from tfrecords.entry_point import INTERRUPTED
from tfrecords.errors import DataError
from tfrecords.input_files import expand
from tfrecords.progress import Progress
from tfrecords.writer import ROWS_PER_RECORD

INPUT = flags.DEFINE_list(
    "input",
    None,
    "Input files in the order of time, separated by commas, also s3:// and gs://; text may be .gz, "
    ".bz2, .xz or .zst. A name may be a pattern such as day_*.csv or a folder, whose files are "
    "taken in the order of their names.",
)
_EVALUATION_INPUT = flags.DEFINE_list(
    "evaluation_input",
    [],
    "Files of the same columns that are the split 'evaluation', in place of --split.",
)
_TEST_INPUT = flags.DEFINE_list(
    "test_input", [], "Files of the same columns that are the split 'test', in place of --split."
)
OUTPUT_DIR = flags.DEFINE_string(
    "output_dir",
    None,
    "Folder to write. A data set that is there is replaced once the new one is whole.",
)
_MIN_COUNT = flags.DEFINE_integer(
    "min_count", 1, "Values of fewer rows share the out-of-vocabulary id 0."
)
_VOCABULARY = flags.DEFINE_enum(
    "vocabulary",
    None,
    ["train", "all"],
    "Whose values get an id: those of the training rows, or of all. Default: train; all with "
    "--reference.",
)
_VOCABULARY_OF = flags.DEFINE_string(
    "vocabulary_of",
    "",
    "A data set folder: values get the ids that they have there, and those that it does not know "
    "are out of the vocabulary, so that a model of that data can be evaluated on this.",
)
_EXTEND_VOCABULARY = flags.DEFINE_bool(
    "extend_vocabulary",
    False,
    "With --vocabulary_of: give values that it does not know new ids behind the old ones.",
)
_SPLIT = flags.DEFINE_string(
    "split",
    None,
    "Which rows become the split 'evaluation': last_seventh, last_day (the first half of the last "
    "input file; its second half becomes the split 'test', with --reference the other way round), "
    "none, or a share such as 0.1, taken from the end. Or random:0.1, a share drawn by --seed; "
    "group:0.1, all rows of one group in one split, likewise; time:0.1, the latest rows; "
    "time_from:2026-05-01, those of that time and later; a second amount, as in random:0.1,0.1, is "
    "that of the split 'test'. The description of the table names the columns: group = and time =. "
    "Default: last_seventh, and last_day with --format=terabyte.",
)
_TUNING = flags.DEFINE_bool(
    "tuning",
    False,
    "For tuning: leave the rows of --split out altogether, and split those that remain in the "
    "same way.",
)
_KEEP_NEGATIVES = flags.DEFINE_float(
    "keep_negatives",
    1.0,
    "Share of the rows with label 0 that is kept: of the training rows, so that evaluation stays "
    "comparable; with --reference of all rows, before they are split.",
)
_SHUFFLE = flags.DEFINE_enum(
    "shuffle",
    "none",
    options.SHUFFLES,
    "Shuffle the training rows (out of core): those of each day among themselves, or all.",
)
_SEED = flags.DEFINE_integer(
    "seed", 0, "Seed of --split, --shuffle, --keep_negatives and --multi_hot."
)
_MULTI_HOT = flags.DEFINE_string(
    "multi_hot",
    "",
    "Ids per row for each of the categorical columns, separated by commas, or mlperf for those of "
    "the MLPerf benchmark DLRM-DCNv2: invented ids that follow from the one that is there.",
)
_MULTI_HOT_DISTRIBUTION = flags.DEFINE_enum(
    "multi_hot_distribution",
    "uniform",
    multi_hot.DISTRIBUTIONS,
    "How the further ids of --multi_hot are distributed.",
)
_ON_BAD_ROW = flags.DEFINE_enum(
    "on_bad_row", "fail", ["fail", "skip"], "What to do with lines that are no rows."
)
_ON_ODD_LABELS = flags.DEFINE_enum(
    "on_odd_labels",
    odd_labels.FAIL,
    [odd_labels.FAIL, odd_labels.ACCEPT],
    "What to do where all labels of a split are alike, or where a text that the description of the "
    "label names never occurs.",
)
_ROWS_PER_RECORD = flags.DEFINE_integer("rows_per_record", ROWS_PER_RECORD, "Rows in one record.")
MEMORY_GB = flags.DEFINE_float(
    "memory_gb",
    None,
    "About how many gigabytes to use, beside half a one for TensorFlow itself; what does not fit "
    "goes to disk, but for the finished vocabularies. Default: half of the machine's memory.",
)
FRESH = flags.DEFINE_bool(
    "fresh", False, "Begin anew, even if a run that was stopped could be continued."
)


def places() -> tuple[list[str], str]:
    """The values of `--input` and `--output_dir`.

    Raises:
        DataError: If one is not given, or no file has a name of a pattern.
    """
    if not INPUT.value or not OUTPUT_DIR.value:
        raise DataError("--input and --output_dir are needed.")
    return expand("--input", INPUT.value, folders=False), OUTPUT_DIR.value


def held_out() -> tuple[list[str], list[str]]:
    """The files of `--evaluation_input` and of `--test_input`.

    Raises:
        DataError: If no file has a name of a pattern.
    """
    evaluation = expand("--evaluation_input", _EVALUATION_INPUT.value)
    return evaluation, expand("--test_input", _TEST_INPUT.value)


def how_to_convert(default_split: str, reference: bool) -> Options:
    """The options, as the flags say.

    Args:
        default_split: What `--split` is where it is not given.
        reference: Ids as the code of the DLRM paper makes them.

    Raises:
        DataError: If a value is not allowed or two contradict each other.
    """
    files = [len(held) for held in held_out()]
    return Options(
        min_count=_MIN_COUNT.value,
        vocabulary=_VOCABULARY.value,
        split=_SPLIT.value or (options.FILES if any(files) else default_split),
        held_out_files=(files[0], files[1]),
        vocabulary_of=_VOCABULARY_OF.value,
        extend_vocabulary=_EXTEND_VOCABULARY.value,
        tuning=_TUNING.value,
        shuffle=_SHUFFLE.value,
        seed=_SEED.value,
        reference=reference,
        on_bad_row=_ON_BAD_ROW.value,
        on_odd_labels=_ON_ODD_LABELS.value,
        rows_per_record=_ROWS_PER_RECORD.value,
        keep_negatives=_KEEP_NEGATIVES.value,
        multi_hot=multi_hot.parse_hotness(_MULTI_HOT.value),
        multi_hot_distribution=_MULTI_HOT_DISTRIBUTION.value,
        memory_gb=MEMORY_GB.value,
    )


def run(
    make_format: Callable[[int], InputFormat],
    *,
    inputs: Callable[[list[str]], list[str]] = list,
    default_split: str = options.LAST_SEVENTH,
    reference: bool = False,
) -> None:
    """Converts, as the flags say; ends the process with a sentence where that is not possible.

    Args:
        make_format: Makes the format, given about how many bytes of text to parse at once.
        inputs: From the value of `--input` to the files.
        default_split: What `--split` is where it is not given.
        reference: Ids as the code of the DLRM paper makes them.
    """
    progress = Progress()
    try:
        named, output_dir = places()
        how = how_to_convert(default_split, reference)
        threads = os.cpu_count() or 1
        source = make_format(Memory.of(MEMORY_GB.value, threads).piece_bytes)
        paths = expand("--input", inputs(named))
        for files in held_out():
            paths = [*paths, *files]
        info = convert(paths, output_dir, source, how, progress, threads, FRESH.value)
    except KeyboardInterrupt:
        progress.say(
            "error: Interrupted. The same command goes on from here; with --fresh it begins anew."
        )
        sys.exit(INTERRUPTED)
    counts = ", ".join(f"{split.rows:,} rows {name}" for name, split in info.splits.items())
    progress.say(f"Wrote {output_dir}: {counts}.")
