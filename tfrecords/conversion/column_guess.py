"""Guesses which features to make of a column of a table, from its name and its first values."""

from __future__ import annotations

import collections
import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tfrecords.conversion.column_description import CategoricalColumn, DenseColumn
from tfrecords.kinds.date_part import ISO, UNIX, DatePart
from tfrecords.kinds.hexadecimal import Hexadecimal
from tfrecords.kinds.integer import integers
from tfrecords.kinds.kind import Report
from tfrecords.kinds.number import numbers

Feature = DenseColumn | CategoricalColumn

_SEPARATORS = ("|", ";", ",", "^", " ")
# Whole numbers of few different values, or called like one of these, are names and not amounts.
_FEW = 50
_NAMES = frozenset(
    "ad advertiser account app article artist author brand browser campaign cat cate category "
    "channel city client code cookie country creative customer device doc domain gender host id "
    "ids ip isbn item language member merchant model movie news os page player product publisher "
    "query region seller session sex shop site sku song store type uid user video visitor zip "
    "zipcode".split()
)
_ROW_NUMBERS = frozenset(
    ("", "id", "idx", "index", "no", "nr", "row", "row id", "row no", "row number", "unnamed 0")
)
_DATES = frozenset("date datetime day dt hour time timestamp".split())
# From here on another value in every row says nothing, and numbers that count up are no amounts.
_MANY = 100
# Digits of a whole number that is hardly an amount if it comes again and again.
_LONG = 6
_YEAR_2101 = 4_133_980_800
_FIRST_SECOND, _LAST_SECOND = 788_918_400, 2_145_916_800  # 1995 to 2038
_DATE_FORMATS = tuple(
    f"{day}{time}"
    for day in ("%Y-%m-%d", "%Y/%m/%d", "%m/%d/%Y", "%d/%m/%Y", "%d.%m.%Y")
    for time in (" %H:%M:%S", " %H:%M", "")
)
_DIGIT_FORMATS = ("%Y%m%d", "%y%m%d%H", "%Y%m%d%H", "%Y%m%d%H%M", "%Y%m%d%H%M%S")
# How likely it may be by chance that labels are alike wherever a value is missing, or is there.
_CHANCE = 1e-6


@dataclasses.dataclass(frozen=True)
class Sample:
    """The first values of a column: text, lists of text, or None where missing."""

    name: str
    values: list[Any]
    is_list: bool = False

    @functools.cached_property
    def given(self) -> list[Any]:
        """The values that are not missing."""
        return [value for value in self.values if value is not None]

    @functools.cached_property
    def numbers(self) -> np.ndarray | None:
        """The values that are given as numbers; None where one is none, or none is given."""
        return None if self.is_list else _read_all(_numbers, self.given)

    @functools.cached_property
    def whole(self) -> np.ndarray | None:
        """The same as whole numbers."""
        return None if self.is_list else _read_all(integers, self.given)


def _numbers(array: pa.Array, report: Report) -> np.ndarray:
    return numbers(array, None, report)


def _read_all(read: Callable[[pa.Array, Report], np.ndarray], values: list[str]) -> Any:
    """What a kind reads of values; None if it refuses one, or there are none."""
    wrong: list[int] = []
    # The first ones tell nearly always.
    for some in (values[:_FEW], values):
        found = read(pa.array(some, pa.string()), lambda index, *_: wrong.append(index))
        if wrong or not len(found):
            return None
    return found


@dataclasses.dataclass(frozen=True)
class Guess:
    """What to make of a column.

    Attributes:
        features: The features; none where the column is to be ignored.
        why: Why it is, or what they were taken for.
    """

    features: tuple[Feature, ...] = ()
    why: str = ""


def guess_column(sample: Sample, label: Sequence[bool | None]) -> Guess:
    """Guesses what a column is.

    Args:
        sample: Its first values.
        label: Whether the label of each of these rows is positive; None where it is missing.
    """
    name = re.sub(r"^\.+", "", sample.name.strip()).replace("/", "_") or "unnamed"
    name = "dense_" if name == "dense" else name
    different = 1 if sample.is_list else len(set(sample.given))
    why = _says_nothing(sample, different, label)
    if why:
        return Guess(why=why)
    if sample.is_list:
        return Guess((_list(name, sample.name, sample.given),), "lists")
    how = _date_format(sample)
    if how is not None:
        return _dates(name, sample.name, how, sample.given)
    why = _is_another_in_every_row(sample, different)
    if why:
        return Guess(why=why)
    return _feature(name, sample, different)


def _says_nothing(sample: Sample, different: int, label: Sequence[bool | None]) -> str:
    if not sample.name:
        return "it has no name"
    if not sample.given:
        return "it holds nothing"
    leak = _leak(sample, different, label)
    if leak:
        return f"{leak}, so it would give the label away"
    if different == 1 and not sample.is_list:
        return f"every value is {sample.given[0][:40]!r}"
    return ""


def _is_another_in_every_row(sample: Sample, different: int) -> str:
    words = " ".join(_words(sample.name))
    whole = sample.whole
    if different == len(sample.given) and (whole is not None or sample.numbers is None):
        many = different >= _MANY
        counts = whole is not None and bool((np.diff(whole) == 1).all())
        if (many and counts) or (whole is not None and words in _ROW_NUMBERS):
            return "it numbers the rows"
        if many and (whole is None or _is_name(sample.name)):
            return "every row has another value"
    if whole is not None and _within(whole, 1000 * _FIRST_SECOND, 1000 * _LAST_SECOND):
        return "it holds milliseconds since 1970; seconds can be used as a date"
    return ""


def _leak(sample: Sample, different: int, label: Sequence[bool | None]) -> str:
    """Where a column is there, or missing, or one of two values, where the label is the same."""
    rows = [(v, y) for v, y in zip(sample.values, label, strict=True) if y is not None]
    positives = sum(y for _, y in rows)
    share = {True: positives / max(1, len(rows)), False: 1 - positives / max(1, len(rows))}
    if share[True] in (0, 1):
        return ""
    for there, say in ((True, "filled"), (False, "missing")):
        found = [y for v, y in rows if (v is not None) == there]
        if not 0 < len(found) < len(rows) or len(set(found)) > 1:
            continue
        (alike,) = set(found)
        exactly = len(found) == (positives if alike else len(rows) - positives)
        if exactly or share[alike] ** len(found) < _CHANCE:
            return f"it is {say} only where the label is {int(alike)}"
    if different == 2 and not sample.is_list and len(set(rows)) == 2 and len(rows) >= _MANY:
        return "its two values are those of the label"
    return ""


def _feature(name: str, sample: Sample, different: int) -> Guess:
    column, given = sample.name, sample.given
    whole, found = sample.whole, sample.numbers
    if whole is not None:
        why = _name_not_amount(sample, different)
        # Text of so many digits is no number of 64 bits, and 007 is not 7.
        zeros = any(re.match(" *0[0-9]", value) for value in given)
        if zeros:
            why = "digits with zeros before them: a name, and no number"
        if why:
            return Guess((CategoricalColumn(name, column, "text" if zeros else "integer"),), why)
    elif all(re.fullmatch(" *-?[0-9]+ *", value) for value in given):
        return Guess((CategoricalColumn(name, column),), "digits that no number of 64 bits holds")
    if found is not None:
        missing = 0.0 if len(given) < len(sample.values) else None
        log = found.min() >= 0 and found.max() > 100
        why = f"amounts from {found.min():g} to {found.max():g}"
        return Guess((DenseColumn(name, column, "log1p" if log else "none", missing),), why)
    if all(re.fullmatch("[0-9a-f]{8}", value) for value in given):
        return Guess((CategoricalColumn(name, column, "hexadecimal"),), Hexadecimal().needed)
    for separator in _SEPARATORS:
        parts = collections.Counter(p for value in given for p in value.split(separator))
        # Lists repeat their parts much more often than themselves.
        if len(parts) < different / 2 and not any(" " in p.strip() for p in parts):
            several = CategoricalColumn(name, column, "text", separator=separator, hotness=None)
            return Guess((several,), f"several values with {separator!r} between them")
    return Guess((CategoricalColumn(name, column),), "text")


def _name_not_amount(sample: Sample, different: int) -> str:
    """Why whole numbers are names; empty where they are amounts."""
    if _is_name(sample.name):
        return "whole numbers, called as names are"
    if different <= _FEW:
        return "whole numbers of few values: names"
    lengths = {len(value.strip()) for value in sample.given}
    if len(lengths) == 1 and min(lengths) >= _LONG and 2 * different <= len(sample.given):
        return f"numbers of {min(lengths)} digits that come again and again: names"
    return ""


def _words(name: str) -> list[str]:
    """The words of a name such as userId, USER_ID or user-id, in lower case."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", name)]


def _is_name(column: str) -> bool:
    words = _words(column)
    while len(words) > 1 and words[-1].isdigit():
        words.pop()
    # Criteo's and Avazu's anonymous categories are called C1, C14, ...
    return bool(words) and (words[-1] in _NAMES or re.fullmatch("[cC][0-9]+", column) is not None)


def _within(whole: np.ndarray, low: int, high: int) -> bool:
    return bool((whole >= low).all() and (whole < high).all())


def _date_format(sample: Sample) -> str | None:
    """How the dates of a column are written; None where they are none."""
    given, whole = sample.given, sample.whole
    if whole is not None and _is_name(sample.name):
        return None
    words = _words(sample.name)
    digits = _DIGIT_FORMATS if words and words[-1] in _DATES else ()
    for how in digits if whole is not None else (ISO, *_DATE_FORMATS):
        if all(_is_date(value, how) for value in given):
            return how
    return UNIX if is_unix(sample) else None


def is_unix(sample: Sample) -> bool:
    """Whether a column holds seconds since 1970, of the years in which data was logged."""
    return sample.whole is not None and _within(sample.whole, _FIRST_SECOND, _LAST_SECOND)


def _is_date(text: str, how: str) -> bool:
    try:
        seconds = DatePart(how, "weekday").seconds(text.encode())
    except ValueError:
        return False
    # Digits of another order are years that nobody logs.
    return how == ISO or 0 <= seconds < _YEAR_2101


def _dates(name: str, column: str, how: str, given: list[str]) -> Guess:
    hours = "%H" in how or how == UNIX or (how == ISO and any(len(text) > 10 for text in given))
    features = tuple(
        CategoricalColumn(f"{name}_{part}", column, "datetime", datetime_format=how, part=part)
        for part in (("hour_of_day",) if hours else ()) + ("weekday",)
    )
    zone = how == UNIX or (how == ISO and any(re.search("([zZ]|[+-][0-9:]{5})$", t) for t in given))
    written = {UNIX: "seconds since 1970", ISO: "dates in ISO's form"}.get(how, "dates")
    return Guess(features, f"{written}, as {'UTC shows them' if zone else 'they are written'}")


def _list(name: str, column: str, given: list[Any]) -> CategoricalColumn:
    values = [value for row in given for value in row if value is not None]
    kind = "integer" if values and all(isinstance(value, int) for value in values) else "text"
    lengths = {len(row) for row in given}
    fixed = lengths.pop() if len(lengths) == 1 else None
    return CategoricalColumn(name, column, kind, hotness=fixed if fixed and fixed > 1 else None)
