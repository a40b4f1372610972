"""Converts tables (CSV, TSV, Parquet, Arrow) to a data set folder.

```
python -m tfrecords.convert --schema=avazu --input=train.gz --output_dir=avazu
python -m tfrecords.convert --describe=clicks.csv > clicks.toml
python -m tfrecords.convert --schema=clicks.toml --input=clicks.csv --output_dir=clicks
```

A description (TOML) says what the columns of the table are; `tfrecords.conversion.description_file`
says how it is written, `table_description` and `column_description` beside it what it may hold. A
run that was stopped goes on where it was when the same command is given again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import app, flags

from tfrecords import entry_point
from tfrecords.conversion import command_line, description_file, table_flags
from tfrecords.conversion.description_guess import guess
from tfrecords.conversion.tabular import TabularFormat
from tfrecords.errors import DataError

_DESCRIBE = flags.DEFINE_string(
    "describe",
    None,
    "Instead of converting, guess a description of this file (.csv, .tsv, .txt, .data, .dat, "
    ".libfm or .parquet, text also compressed) from its first rows, and print it for you to "
    "look through, with what was taken for what, and why.",
)
_LABEL = flags.DEFINE_string(
    "label", None, "--describe: the column that is the label. Default: the first that looks so."
)

# So that --help shows them too.
flags.adopt_module_key_flags(command_line)
flags.adopt_module_key_flags(table_flags)


def main(argv: Sequence[str]) -> None:
    """Converts or describes, as the flags say."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown argument {argv[1]!r}; all options are flags.")
    if _DESCRIBE.value:
        sys.stdout.write(guess(_DESCRIBE.value, _LABEL.value))
        return
    command_line.run(_format)


def _format(piece_bytes: int) -> TabularFormat:
    if _LABEL.value is not None:
        raise DataError("--label is for --describe; a description names its label itself.")
    if not table_flags.SCHEMA.value:
        raise DataError(
            "--schema is needed: a description of the table, or "
            f"{' or '.join(description_file.built_in())}. --describe=FILE prints one to begin with."
        )
    return table_flags.make_format(piece_bytes)


if __name__ == "__main__":
    entry_point.run(main)
