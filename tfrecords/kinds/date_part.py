"""A part of a date and time: the hour of the day, the day of the week, and so on."""

from __future__ import annotations

import datetime
import math
import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfrecords.errors import DataError
from tfrecords.kinds.integer import graph_integers, integers
from tfrecords.kinds.kind import (
    TEXT,
    Kind,
    Report,
    encoded,
    fill_missing,
    is_text,
    is_whole,
    nulls,
    parse_each,
)
from tfrecords.lazy import tf

ISO, UNIX = "iso", "unix"
# Number of ids of each part; days of the month and months begin with id 0, weekdays with Monday.
PARTS = {"hour_of_day": 24, "weekday": 7, "day_of_month": 31, "month": 12}
_LAST_SECOND = 253_402_300_799  # Of the year 9999.
_DAY = 86_400
# What `strptime` takes, and what part of a date it is. It takes the first way that matches.
_DIRECTIVES = {
    "Y": ("[0-9][0-9][0-9][0-9]", "year"),
    "y": ("[0-9][0-9]", "short_year"),
    "m": ("1[0-2]|0[1-9]|[1-9]", "month"),
    "d": ("3[0-1]|[1-2][0-9]|0[1-9]|[1-9]| [1-9]", "day"),
    "H": ("2[0-3]|[0-1][0-9]|[0-9]", "hour"),
    "M": ("[0-5][0-9]|[0-9]", "minute"),
    "S": ("[0-5][0-9]|[0-9]", "second"),
}
# What every version of Python reads as ISO 8601, and some that newer ones do.
_ISO_PATTERN = (
    "([0-9]{4})-([0-9]{2})-([0-9]{2})(?:[T ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})"
    "(?:[.](?:[0-9]{3}|[0-9]{6}))?)?(?:[zZ]|([+-])([0-9]{2}):([0-9]{2}))?)?"
)
_ISO_NAMES = ("year", "month", "day", "hour", "minute", "second", "sign", "hours", "minutes")


class DatePart(Kind):
    """One part of a date, as an id.

    Args:
        datetime_format: How a date is written: as Python's `strptime` says it, `iso`, or `unix`.
        part: One of `PARTS`.
        missing: The id that stands for a missing value; None: a row without it is a bad row.
    """

    options = ("datetime_format", "part", "missing")

    def __init__(self, datetime_format: str, part: str, missing: int | None = None) -> None:
        self._written = written = datetime_format
        self._part = part
        self._missing = missing
        self.size = PARTS[part]
        self.csv_type = pa.int64() if written == UNIX else TEXT
        self.blank = None if missing is None else np.uint64(missing)
        self.needed = f"a date as {written!r} says"
        self.example = datetime.date(2020, 1, 2).strftime("%Y-%m-%d" if written == ISO else written)
        if written == UNIX:
            self.example = "0"
            self.needed = "a number of seconds since 1970 (to the year 9999)"
        self.needed_type = "dates, text or whole numbers are needed"

    @property
    def words(self) -> str:
        """See `Kind.words`."""
        return f"the {self._part} of a date"

    def accepts(self, type: pa.DataType) -> bool:
        """See `Kind.accepts`."""
        return is_whole(type) or is_text(type) or _is_date(type)

    def keys(self, values: pa.Array, report: Report) -> np.ndarray:
        """See `Kind.keys`."""
        needed = self.needed
        if _is_date(values.type):
            needed = f"a date as {self._written!r} says"
            # A cast alone would cut a time before 1970 to the second that follows.
            whole = pc.floor_temporal(values, unit="second")
            whole = whole.cast(pa.timestamp("s"), safe=False).cast(pa.int64())
            seconds = np.array(pc.fill_null(whole, 0).to_numpy(zero_copy_only=False))
        elif self._written == UNIX:
            seconds = integers(values, report)
            seconds[nulls(values)] = 0
            for index in np.flatnonzero(np.abs(seconds) > _LAST_SECOND):
                report(int(index), "date", f"is {seconds[index]}, where {needed} is needed")
                seconds[index] = 0
        else:
            seconds = parse_each(encoded(values), self.seconds, np.int64, needed, report)
        parts = _part(seconds, self._part)
        return fill_missing(values, parts, self._missing, needed, report).astype(np.uint64)

    def graph_keys(self, values: tf.Tensor, missing: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """See `Kind.graph_keys`.

        Raises:
            DataError: If dates are written by directives other than %Y, %y, %m, %d, %H, %M, %S.
        """
        if self._written == UNIX:
            seconds, fits = graph_integers(values)
            fits &= (seconds >= -_LAST_SECOND) & (seconds <= _LAST_SECOND)
        else:
            texts = values if values.dtype == tf.string else tf.strings.as_string(values)
            if self._written == ISO:
                fits = tf.strings.regex_full_match(texts, _ISO_PATTERN)
                seconds, real = _graph_seconds(texts, fits, f"^{_ISO_PATTERN}$", _ISO_NAMES)
            else:
                pattern, names = _pattern(self._written)
                # As `strptime`, which takes the first way to read the beginning, and then wants
                # no more.
                whole = f"^{pattern}((?s:.*))$"
                fits = tf.strings.regex_full_match(texts, f"{pattern}(?s:.*)")
                rest = tf.strings.regex_replace(texts, whole, rf"\{len(names) + 1}")
                fits &= tf.equal(rest, "")
                seconds, real = _graph_seconds(texts, fits, whole, names)
            fits &= real
        return self._or_blank(_part(tf.where(fits, seconds, 0), self._part), fits, missing)

    def seconds(self, value: bytes) -> int:
        """The seconds since 1970 of a date as text, but for those that are written as `unix`.

        Raises:
            ValueError: If it is not written so.
        """
        text = value.decode()
        if self._written == ISO:
            # Python 3.10 does not know the letter Z.
            date = datetime.datetime.fromisoformat(re.sub("[zZ]$", "+00:00", text))
        else:
            date = datetime.datetime.strptime(text, self._written)
        if date.tzinfo is None:
            date = date.replace(tzinfo=datetime.timezone.utc)
        return math.floor(date.timestamp())


def _is_date(type: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(type) or pa.types.is_date(type))


def _part(seconds, part: str):  # type: ignore[no-untyped-def]
    """The part of each date, of an int64 array or tensor."""
    days = seconds // _DAY
    if part == "hour_of_day":
        return (seconds - days * _DAY) // 3600
    if part == "weekday":
        # 1970 began on a Thursday.
        return (days + 3) % 7
    _, month, day = _civil(days)
    if part == "month":
        return month - 1
    if part == "day_of_month":
        return day - 1
    raise DataError(f"The part of a date {part!r} is not known.")


def _civil(days):  # type: ignore[no-untyped-def]
    """Year, month and day of numbers of days since 1970.

    References:
        Hinnant, chrono-Compatible Low-Level Date Algorithms, `civil_from_days`.
    """
    shifted = days + 719_468
    era = shifted // 146_097
    of_era = shifted - era * 146_097
    year_of_era = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    from_march = (5 * of_year + 2) // 153
    day = of_year - (153 * from_march + 2) // 5 + 1
    month = (from_march + 2) % 12 + 1
    # January and February belong to the year that began before.
    return year_of_era + era * 400 + (14 - month) // 12, month, day


def _days(year: tf.Tensor, month: tf.Tensor, day: tf.Tensor) -> tf.Tensor:
    """Days since 1970, as `_civil` counts them."""
    year = year - (14 - month) // 12
    era = year // 400
    year_of_era = year - era * 400
    of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return (
        era * 146_097
        + year_of_era * 365
        + year_of_era // 4
        - year_of_era // 100
        + (of_year - 719_468)
    )


def _pattern(written: str) -> tuple[str, tuple[str, ...]]:
    """The regular expression of dates, and what each of its groups is."""
    pattern = ""
    names: list[str] = []
    parts = re.split("%(.)", written, flags=re.DOTALL)
    for number, part in enumerate(parts):
        if number % 2 == 0 or part == "%":
            # As `strptime`, which takes any number of blanks for some.
            literal = "%" if number % 2 else part
            pattern += re.sub(r"(?:\\?\s)+", r"[ \t\n\r\f\v]+", re.escape(literal))
            continue
        of, name = _DIRECTIVES.get(part, ("", ""))
        if not of or name in names or {"year", "short_year"} <= {name, *names}:
            raise DataError(
                f"Dates written as {written!r} cannot be read in a graph, which knows "
                f"{', '.join('%' + known for known in _DIRECTIVES)} once each."
            )
        pattern += f"({of})"
        names.append(name)
    return f"(?i:{pattern})", tuple(names)


def _graph_seconds(
    texts: tf.Tensor, fits: tf.Tensor, pattern: str, names: tuple[str, ...]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Seconds since 1970 of dates as text, and whether there are such dates.

    Args:
        texts: The texts.
        fits: Which of them the pattern matches.
        pattern: A regular expression; at most nine groups can be told from each other.
        names: What each of its groups is.
    """
    found = {}
    for number, name in enumerate(names):
        text = tf.strings.regex_replace(texts, pattern, rf"\{number + 1}")
        found[name] = tf.where(fits, text, "")
    numbers = {
        name: tf.strings.to_number(tf.strings.join(["0", tf.strings.strip(text)]), tf.int64)
        for name, text in found.items()
        if name != "sign"
    }
    year = numbers.get("year", tf.constant(1900, tf.int64))
    if "short_year" in numbers:
        short = numbers["short_year"]
        year = short + tf.where(short < 69, tf.constant(2000, tf.int64), 1900)
    month, day = (numbers.get(name, tf.constant(1, tf.int64)) for name in ("month", "day"))
    real = (year >= 1) & (month >= 1) & (month <= 12) & (day >= 1)
    days = _days(year, tf.clip_by_value(month, 1, 12), day)
    # The 30th of February is a day of March.
    real &= tf.equal(_civil(days)[1], month) & tf.equal(_civil(days)[2], day)
    hour, minute, second = (
        numbers.get(name, tf.constant(0, tf.int64)) for name in ("hour", "minute", "second")
    )
    real &= (hour < 24) & (minute < 60) & (second < 60)
    seconds = days * _DAY + hour * 3600 + minute * 60 + second
    if "sign" in found:
        real &= (numbers["hours"] < 24) & (numbers["minutes"] < 60)
        offset = numbers["hours"] * 3600 + numbers["minutes"] * 60
        seconds -= tf.where(tf.equal(found["sign"], "-"), -offset, offset)
    return seconds, real
