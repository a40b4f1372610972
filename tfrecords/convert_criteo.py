"""Converts Criteo click logs to a data set folder.

```
python -m tfrecords.convert_criteo --input=train.txt --output_dir=criteo --format=kaggle
```

Input are lines of a label, 13 whole numbers and 26 hexadecimal categories, separated by tabs, any
of the numbers and categories blank. While it works it needs about twice the space of the result
(three times with --shuffle), all of it beside the output folder.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import app, flags

from tfrecords.conversion import convert as conversion
from tfrecords.errors import DataError
from tfrecords.progress import Progress
from tfrecords.writer import ROWS_PER_RECORD

_INPUT = flags.DEFINE_list(
    "input", None, "Text files in the order of time, separated by commas; .gz too.", required=True
)
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir",
    None,
    "Folder to write. A data set that is there is replaced once the new one is whole.",
    required=True,
)
_FORMAT = flags.DEFINE_enum("format", "kaggle", ["kaggle"], "Format of the input.")
_MIN_COUNT = flags.DEFINE_integer(
    "min_count", 1, "Values of fewer rows share the out-of-vocabulary id 0."
)
_MAX_INDEX_RANGE = flags.DEFINE_integer(
    "max_index_range",
    0,
    "Categories are taken modulo this before they are counted, which bounds the tables (to two "
    "more than this: the out-of-vocabulary id and the blank). 0: not.",
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
    conversion.LAST_SEVENTH,
    "Which rows become the split 'evaluation': last_seventh (the last day of the Kaggle data), "
    "none, or a share such as 0.1, taken from the end.",
)
_TUNING = flags.DEFINE_bool(
    "tuning",
    False,
    "For tuning: leave the rows of --split out altogether, and split those that remain in the "
    "same way.",
)
_SHUFFLE = flags.DEFINE_bool("shuffle", False, "Shuffle all training rows (out of core).")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of --shuffle.")
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


def main(argv: Sequence[str]) -> None:
    """Converts, as the flags say."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown argument {argv[1]!r}; all options are flags.")
    progress = Progress()
    try:
        info = conversion.convert(
            _INPUT.value,
            _OUTPUT_DIR.value,
            conversion.Options(
                min_count=_MIN_COUNT.value,
                max_index_range=_MAX_INDEX_RANGE.value,
                vocabulary=_VOCABULARY.value or ("all" if _REFERENCE.value else "train"),
                split=_SPLIT.value,
                tuning=_TUNING.value,
                shuffle=_SHUFFLE.value,
                seed=_SEED.value,
                reference=_REFERENCE.value,
                bucketize_dense=_BUCKETIZE_DENSE.value,
                on_bad_row=_ON_BAD_ROW.value,
                rows_per_record=_ROWS_PER_RECORD.value,
            ),
            progress,
        )
    except DataError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {error}.")
    except KeyboardInterrupt:
        sys.exit("error: Interrupted; nothing was changed.")
    counts = ", ".join(f"{split.rows:,} rows {name}" for name, split in info.splits.items())
    progress.say(f"Wrote {_OUTPUT_DIR.value}: {counts}.")


if __name__ == "__main__":
    app.run(main)
