"""The flags that say what Criteo's files hold; for entry points only."""

from __future__ import annotations

from collections.abc import Callable

from absl import flags

from tfrecords.conversion import options
from tfrecords.conversion.criteo import CriteoFormat, day_files
from tfrecords.errors import DataError

FORMAT = flags.DEFINE_enum(
    "format",
    "kaggle",
    ["kaggle", "terabyte"],
    "Format of Criteo's files: one log of seven days (kaggle), or one file for each day "
    "(terabyte), of which --input may also name the folder that holds day_0 to day_23.",
)
_DAYS = flags.DEFINE_string(
    "days",
    "",
    "Which days of the folder of --format=terabyte, for example 0-6,23. Default: all that are "
    "there.",
)
_MAX_INDEX_RANGE = flags.DEFINE_integer(
    "max_index_range",
    0,
    "Categories are taken modulo this before they are counted, which bounds the tables (to two "
    "more than this: the out-of-vocabulary id and the blank). MLPerf: 40000000. 0: not.",
    lower_bound=0,
    upper_bound=2**62,
)
REFERENCE = flags.DEFINE_bool(
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


def make_format(piece_bytes: int | None) -> CriteoFormat:
    """The format, as the flags say, given about how many bytes of text to parse at once."""
    return CriteoFormat(
        FORMAT.value,
        max_index_range=_MAX_INDEX_RANGE.value,
        bucketize_dense=_BUCKETIZE_DENSE.value,
        reference=REFERENCE.value,
        piece_bytes=piece_bytes,
    )


def default_split() -> str:
    """What `--split` is where it is not given."""
    return options.LAST_DAY if FORMAT.value == "terabyte" else options.LAST_SEVENTH


def inputs(
    named: list[str], files_of: Callable[[list[str], str], list[str]] = day_files
) -> list[str]:
    """The files in the order of time.

    Args:
        named: The value of `--input`.
        files_of: Finds those of the Terabyte log, given also the value of `--days`.

    Raises:
        DataError: If a file that is needed is missing.
    """
    if FORMAT.value == "terabyte":
        return files_of(named, _DAYS.value)
    if _DAYS.value:
        raise DataError(
            f"--days={_DAYS.value} chooses among the files of --format=terabyte; "
            f"--format={FORMAT.value} has one log."
        )
    return named
