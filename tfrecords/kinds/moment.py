"""Places in time, as numbers of one line."""

from __future__ import annotations

import datetime
import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfrecords.kinds.kind import ByValue, Report, encoded, fill_missing, is_text, parse_each
from tfrecords.kinds.number import number_of, numbers

NEEDED = "a number or a date in ISO's form"


class Moment(ByValue):
    """A time: a number, or a date, which is its seconds since 1970.

    Dates without an offset are taken as UTC.
    """

    def read(self, array: pa.Array, report: Report) -> np.ndarray:
        """The numbers, float64 `[values]`.

        Args:
            array: Arrow array `[values]` of numbers, dates or text.
            report: Told what is wrong.
        """
        if pa.types.is_timestamp(array.type) or pa.types.is_date(array.type):
            micros = array.cast(pa.timestamp("us"), safe=False).cast(pa.int64())
            filled = pc.fill_null(micros, 0).to_numpy(zero_copy_only=False)
            return fill_missing(array, filled / 1e6, None, NEEDED, report)
        if not is_text(array.type):
            return numbers(array, None, report)
        found = parse_each(
            encoded(array), lambda text: moment(text.decode()), np.float64, NEEDED, report
        )
        return fill_missing(array, found, None, NEEDED, report)


def moment(text: str) -> float:
    """The number of a time as text.

    Raises:
        ValueError: If it is neither a number nor a date.
    """
    number = number_of(text)
    if number is not None:
        return number
    # Python 3.10 does not know the letter Z.
    date = datetime.datetime.fromisoformat(re.sub("[zZ]$", "+00:00", text.strip()))
    if date.tzinfo is None:
        date = date.replace(tzinfo=datetime.timezone.utc)
    return date.timestamp()
