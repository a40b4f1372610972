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

from collections.abc import Sequence

from absl import app, flags

from tfrecords import entry_point
from tfrecords.conversion import command_line, criteo_flags

# So that --help shows them too.
flags.adopt_module_key_flags(command_line)
flags.adopt_module_key_flags(criteo_flags)


def main(argv: Sequence[str]) -> None:
    """Converts, as the flags say."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown argument {argv[1]!r}; all options are flags.")
    command_line.run(
        criteo_flags.make_format,
        inputs=criteo_flags.inputs,
        default_split=criteo_flags.default_split(),
        reference=criteo_flags.REFERENCE.value,
    )


if __name__ == "__main__":
    entry_point.run(main)
