"""Converts Criteo click logs to a data set folder.

```
python -m tfrecords.convert_criteo --input=train.txt --output_dir=criteo --format=kaggle
python -m tfrecords.convert_criteo --input=DIR --output_dir=terabyte --format=terabyte \
    --max_index_range=40000000 --shuffle=total
```

Input are lines of a label, 13 whole numbers and 26 hexadecimal categories, separated by tabs, any
of the numbers and categories blank. While it works it needs about twice the space of the result
(three times with --shuffle), all of it beside the output folder. A run that was stopped goes on
where it was when the same command is given again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from absl import app, flags

from tfrecords.conversion import multi_hot, options
from tfrecords.conversion.convert import convert
from tfrecords.conversion.criteo import CriteoFormat, day_files
from tfrecords.conversion.memory import Memory
from tfrecords.conversion.options import Options
from tfrecords.errors import DataError
from tfrecords.progress import Progress
from tfrecords.writer import ROWS_PER_RECORD

_INPUT = flags.DEFINE_list(
    "input",
    None,
    "Text files in the order of time, separated by commas; .gz too. With --format=terabyte also "
    "one folder that holds day_0 to day_23, plain or .gz.",
    required=True,
)
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir",
    None,
    "Folder to write. A data set that is there is replaced once the new one is whole.",
    required=True,
)
_FORMAT = flags.DEFINE_enum(
    "format",
    "kaggle",
    ["kaggle", "terabyte"],
    "Format of the input: one log of seven days (kaggle), or one file for each day (terabyte).",
)
_DAYS = flags.DEFINE_string(
    "days",
    "",
    "Which days of the folder of --format=terabyte, for example 0-6,23. Default: all that are "
    "there.",
)
_MIN_COUNT = flags.DEFINE_integer(
    "min_count", 1, "Values of fewer rows share the out-of-vocabulary id 0."
)
_MAX_INDEX_RANGE = flags.DEFINE_integer(
    "max_index_range",
    0,
    "Categories are taken modulo this before they are counted, which bounds the tables (to two "
    "more than this: the out-of-vocabulary id and the blank). MLPerf: 40000000. 0: not.",
)
_VOCABULARY = flags.DEFINE_enum(
    "vocabulary",
    None,
    ["train", "all"],
    "Whose values get an id: those of the training rows, or of all. Default: train; all with "
    "--reference.",
)
_SPLIT = flags.DEFINE_string(
    "split",
    None,
    "Which rows become the split 'evaluation': last_seventh (the last day of the Kaggle data), "
    "last_day (the first half of the last input file; its second half becomes the split 'test', "
    "with --reference the other way round), none, or a share such as 0.1, taken from the end. "
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
_SEED = flags.DEFINE_integer("seed", 0, "Seed of --shuffle, --keep_negatives and --multi_hot.")
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
_REFERENCE = flags.DEFINE_bool(
    "reference",
    False,
    "Ids exactly as the code of the DLRM paper makes them: no out-of-vocabulary id, blank as 0, "
    "values of all rows.",
)
_BUCKETIZE_DENSE = flags.DEFINE_bool(
    "bucketize_dense",
    False,
    "Add the 13 integers as 13 further categorical columns: blank as a value of its own, "
    "floor(ln(x)^2) above 2, the number itself else (as the BARS benchmark does).",
)
_ON_BAD_ROW = flags.DEFINE_enum(
    "on_bad_row", "fail", ["fail", "skip"], "What to do with lines that are no rows."
)
_ROWS_PER_RECORD = flags.DEFINE_integer("rows_per_record", ROWS_PER_RECORD, "Rows in one record.")
_MEMORY_GB = flags.DEFINE_float(
    "memory_gb",
    None,
    "About how many gigabytes to use, beside half a one for TensorFlow itself; what does not fit "
    "goes to disk, but for the finished vocabularies. Default: half of the machine's memory.",
)
_FRESH = flags.DEFINE_bool(
    "fresh", False, "Begin anew, even if a run that was stopped could be continued."
)


def main(argv: Sequence[str]) -> None:
    """Converts, as the flags say."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown argument {argv[1]!r}; all options are flags.")
    progress = Progress()
    terabyte = _FORMAT.value == "terabyte"
    try:
        if _DAYS.value and not terabyte:
            raise DataError(
                f"--days={_DAYS.value} chooses among the files of --format=terabyte; "
                f"--format={_FORMAT.value} has one log."
            )
        how = Options(
            min_count=_MIN_COUNT.value,
            vocabulary=_VOCABULARY.value,
            split=_SPLIT.value or (options.LAST_DAY if terabyte else options.LAST_SEVENTH),
            tuning=_TUNING.value,
            shuffle=_SHUFFLE.value,
            seed=_SEED.value,
            reference=_REFERENCE.value,
            on_bad_row=_ON_BAD_ROW.value,
            rows_per_record=_ROWS_PER_RECORD.value,
            keep_negatives=_KEEP_NEGATIVES.value,
            multi_hot=multi_hot.parse_hotness(_MULTI_HOT.value),
            multi_hot_distribution=_MULTI_HOT_DISTRIBUTION.value,
            memory_gb=_MEMORY_GB.value,
        )
        threads = os.cpu_count() or 1
        source = CriteoFormat(
            _FORMAT.value,
            max_index_range=_MAX_INDEX_RANGE.value,
            bucketize_dense=_BUCKETIZE_DENSE.value,
            reference=_REFERENCE.value,
            piece_bytes=Memory.of(_MEMORY_GB.value, threads).piece_bytes,
        )
        inputs = day_files(_INPUT.value, _DAYS.value) if terabyte else _INPUT.value
        info = convert(inputs, _OUTPUT_DIR.value, source, how, progress, threads, _FRESH.value)
    except DataError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {error}.")
    except KeyboardInterrupt:
        sys.exit(
            "error: Interrupted. The same command goes on from here; with --fresh it begins anew."
        )
    counts = ", ".join(f"{split.rows:,} rows {name}" for name, split in info.splits.items())
    progress.say(f"Wrote {_OUTPUT_DIR.value}: {counts}.")


if __name__ == "__main__":
    app.run(main)
