"""What `dataset.json` says about the conversion, for people and for `meanings` to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tfrecords.conversion import criteo, description_file
from tfrecords.conversion.formats import InputFormat
from tfrecords.conversion.options import Options
from tfrecords.conversion.table_description import TableDescription


def how_it_was_made(
    format: InputFormat,
    options: Options,
    inputs: Sequence[Mapping[str, object]],
    *,
    rows_read: int,
    rows_left_out_for_tuning: int,
    negative_rows_dropped: int,
    bad_rows_skipped: Mapping[str, int],
) -> dict[str, Any]:
    """Describes a conversion, the same on one machine and on many.

    Args:
        format: What the files hold.
        options: How they were converted.
        inputs: Names and sizes of the files.
        rows_read: Number of rows.
        rows_left_out_for_tuning: Rows behind the last one that was used.
        negative_rows_dropped: Rows that negative sub-sampling dropped.
        bad_rows_skipped: Number of lines that were no rows, by kind.
    """
    return {
        "program": "tfrecords.conversion",
        "format": format.describe(),
        "options": options.describe(),
        "input": [dict(file) for file in inputs],
        "rows_read": rows_read,
        "rows_left_out_for_tuning": rows_left_out_for_tuning,
        "negative_rows_dropped": negative_rows_dropped,
        "bad_rows_skipped": dict(sorted(bad_rows_skipped.items())),
        "ids": (
            "as the code of the DLRM paper: by first occurrence in all rows"
            if options.reference
            else "by first occurrence; 0 is out of vocabulary"
        ),
    }


def table_of(made: Mapping[str, Any]) -> TableDescription:
    """The table of which a data set was made, of what `dataset.json` says of its format.

    Raises:
        AttributeError, LookupError, TypeError, ValueError: If it does not say it.
    """
    if "description" in made:
        return description_file.from_toml(made["description"], "the description")
    return criteo.of_data_set(made)
