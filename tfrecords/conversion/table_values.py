"""From the columns of a table (Arrow arrays) to numbers and keys, with what is wrong in them."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

from tfrecords.conversion import criteo_text
from tfrecords.conversion.table_description import ISO, UNIX, CategoricalColumn
from tfrecords.errors import DataError

# Keys that no value has: text has none of its own (a missing one is the empty text).
BLANK_INTEGER = np.uint64(1 << 63)
BLANK_HEXADECIMAL = np.uint64(1 << 32)

# Called with the position of a value, the kind of what is wrong, and what is wrong as a clause.
Report = Callable[[int, str, str], None]

# What Arrow's parser of CSV takes, so that a line is good or bad whatever stands beside it.
_WHOLE = re.compile(r"[ \t]*(?:(-?[0-9]{1,19})|0[xX]([0-9a-fA-F]{1,15}))[ \t]*")
_NUMBER = re.compile(r"[ \t]*([-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)[ \t]*")
_LAST_SECOND = 253_402_300_799  # Of the year 9999.


def is_text(kind: pa.DataType) -> bool:
    """Whether a column holds text, in any of Arrow's ways."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    )


def fingerprints(texts: pa.Array) -> np.ndarray:
    """TensorFlow's 64-bit fingerprint of each text.

    Args:
        texts: Arrow array of text `[values]`; nulls count as the empty text.

    Returns:
        uint64 `[values]`.
    """
    if not len(texts):
        return np.zeros(0, np.uint64)
    objects = pc.fill_null(texts.cast(pa.binary()), b"").to_numpy(zero_copy_only=False)
    return tf.fingerprint(objects).numpy().reshape(-1).view("<u8")


def numbers(array: pa.Array, missing: float | None, report: Report) -> np.ndarray:
    """Numbers, all of them finite.

    Args:
        array: Arrow array `[values]` of numbers or text.
        missing: What stands for a null; None: it is reported.
        report: Told what is wrong.

    Returns:
        float64 `[values]`; 0 where something was reported.
    """
    if is_text(array.type):
        values = _from_text(array, pa.float64(), _number, "a number", report)
    else:
        filled = pc.fill_null(array.cast(pa.float64(), safe=False), 0.0)
        values = np.array(filled.to_numpy(zero_copy_only=False))
        for index in np.flatnonzero(~np.isfinite(values)):
            report(int(index), "number", f"is {values[index]}, where a number is needed")
            values[index] = 0
    return _fill_missing(array, values, missing, "a number", report)


def integers(array: pa.Array, report: Report) -> np.ndarray:
    """Whole numbers of 64 bits, without the smallest of them.

    Args:
        array: Arrow array `[values]` of numbers or text.
        report: Told what is wrong.

    Returns:
        int64 `[values]`; the smallest of all where null, 0 where something was reported.
    """
    what = "a whole number of 64 bits"
    kind = array.type
    if is_text(kind):
        values = _from_text(array, pa.int64(), _whole, what, report)
    elif pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_uint64(kind):
        # In Python's numbers, which are exact whatever came.
        values = _each(array, lambda value: int(value) if value == int(value) else None)(
            np.int64, what, report
        )
    else:
        filled = pc.fill_null(array.cast(pa.int64()), 0)
        values = np.array(filled.to_numpy(zero_copy_only=False))
    smallest = np.iinfo(np.int64).min
    for index in np.flatnonzero(values == smallest):
        report(int(index), "number", f"is {smallest}, where {what} above it is needed")
        values[index] = 0
    if array.null_count:
        values[_nulls(array)] = smallest
    return values


def ids(array: pa.Array, size: int, missing: int | None, report: Report) -> np.ndarray:
    """Ids in `[0, size)`.

    Args:
        array: Arrow array `[values]` of numbers or text.
        size: Number of ids.
        missing: What stands for a null; None: it is reported.
        report: Told what is wrong.

    Returns:
        int64 `[values]`; 0 where something was reported.
    """
    needed = f"an id in [0, {size})"
    values = integers(array, report)
    nulls = _nulls(array)
    values[nulls] = 0
    for index in np.flatnonzero((values < 0) | (values >= size)):
        report(int(index), "id", f"is {values[index]}, where {needed} is needed")
        values[index] = 0
    return _fill_missing(array, values, missing, needed, report)


def keys(array: pa.Array, column: CategoricalColumn, report: Report) -> np.ndarray:
    """What stands for each value in `Rows.keys`, as `column` says.

    Args:
        array: Arrow array `[values]`.
        column: What the values are.
        report: Told what is wrong.

    Returns:
        uint64 `[values]`.
    """
    if column.kind == "datetime":
        return _parts(array, column, report).astype(np.uint64)
    if column.vocabulary_size is not None:
        return ids(array, column.vocabulary_size, column.missing, report).astype(np.uint64)
    if column.hash_buckets is not None and column.kind == "integer":
        # As tf.strings.as_string writes them.
        whole = integers(array, report)
        array = pa.array(whole, mask=_nulls(array)).cast(pa.string())
    if column.kind == "integer" and column.hash_buckets is None:
        return integers(array, report).view(np.uint64)
    if column.kind == "hexadecimal":
        return _hexadecimal(array, report)
    codes = encoded(array)
    hashed = fingerprints(codes.dictionary)
    if column.hash_buckets is not None:
        hashed %= np.uint64(column.hash_buckets)
    return spread(codes, hashed, blank_key(column))


def blank_key(column: CategoricalColumn) -> np.uint64 | None:
    """What stands for a missing value in `Rows.keys`; None where nothing can."""
    if column.ids is not None:
        return None if column.missing is None else np.uint64(column.missing)
    if column.hash_buckets is not None:
        return np.uint64(fingerprints(pa.array([b""]))[0] % np.uint64(column.hash_buckets))
    if column.kind == "text":
        return np.uint64(fingerprints(pa.array([b""]))[0])
    return BLANK_INTEGER if column.kind == "integer" else BLANK_HEXADECIMAL


def encoded(array: pa.Array) -> pa.DictionaryArray:
    """The values as a dictionary of binary text; numbers as Arrow writes them; nulls stay."""
    if pa.types.is_dictionary(array.type):
        if pa.types.is_binary(array.type.value_type):
            return array
        array = array.dictionary_decode()
    if not is_text(array.type):
        array = array.cast(pa.string())
    return array.cast(pa.binary()).dictionary_encode()


def spread(codes: pa.DictionaryArray, of_distinct: np.ndarray, of_null: Any) -> np.ndarray:
    """The values of the distinct entries, at every place where they stand."""
    places = codes.indices
    if places.null_count:
        places = pc.fill_null(places, len(of_distinct))
        of_distinct = np.append(of_distinct, np.array([of_null], of_distinct.dtype))
    return of_distinct[places.to_numpy(zero_copy_only=False)]


def _nulls(array: pa.Array) -> np.ndarray:
    return np.asarray(array.is_null().to_numpy(zero_copy_only=False))


def _fill_missing(
    array: pa.Array, values: np.ndarray, missing: float | None, needed: str, report: Report
) -> np.ndarray:
    if array.null_count:
        nulls = _nulls(array)
        values[nulls] = 0 if missing is None else missing
        if missing is None:
            for index in np.flatnonzero(nulls):
                report(int(index), "missing value", f"is missing, where {needed} is needed")
    return values


def _from_text(
    array: pa.Array,
    kind: pa.DataType,
    parse: Callable[[str], Any],
    needed: str,
    report: Report,
) -> np.ndarray:
    if not pa.types.is_dictionary(array.type):
        try:
            filled = pc.fill_null(array.cast(pa.binary()).cast(pa.string()).cast(kind), 0)
            values = np.array(filled.to_numpy(zero_copy_only=False))
            if np.isfinite(values).all():
                return values
        except pa.ArrowInvalid:
            pass
    numpy_kind = np.dtype(kind.to_pandas_dtype())
    return _each(encoded(array), lambda text: parse(text.decode()))(numpy_kind, needed, report)


def _each(array: pa.Array, parse: Callable[[Any], Any]) -> Callable[[Any, str, Report], np.ndarray]:
    """Parses the distinct values one by one; None or an error means that one cannot be."""
    codes = array if pa.types.is_dictionary(array.type) else array.dictionary_encode()

    def parsed(kind: Any, needed: str, report: Report) -> np.ndarray:
        distinct = codes.dictionary.to_pylist()
        values: np.ndarray = np.zeros(len(distinct), kind)
        wrong: np.ndarray = np.zeros(len(distinct), np.bool_)
        for index, value in enumerate(distinct):
            try:
                number = None if value is None else parse(value)
                wrong[index] = number is None
                values[index] = 0 if number is None else number
            except (ValueError, OverflowError):
                wrong[index] = True
        if wrong.any():
            places = codes.indices
            for index in np.flatnonzero(spread(codes, wrong, False)).tolist():
                value = distinct[places[index].as_py()]
                report(index, "number", f"is {shown(value)}, where {needed} is needed")
        return spread(codes, values, 0)

    return parsed


def _number(text: str) -> float | None:
    match = _NUMBER.fullmatch(text)
    number = float(match[1]) if match else math.nan
    return number if math.isfinite(number) else None


def _whole(text: str) -> int | None:
    match = _WHOLE.fullmatch(text)
    if match is None:
        return None
    return int(match[1]) if match[1] else int(match[2], 16)


def shown(value: Any) -> str:
    """A value for a message, cut where it is long."""
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError:
            return f"{value[:40]!r} (not UTF-8)"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _hexadecimal(array: pa.Array, report: Report) -> np.ndarray:
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    filled = pc.fill_null(array.cast(pa.binary()), b"")
    values: np.ndarray = np.zeros(len(array), np.uint32)
    blank: np.ndarray = np.zeros(len(array), np.bool_)
    try:
        criteo_text.hexadecimal(filled, values, blank)
    except criteo_text.NotParsed:
        digits = re.compile(rb"[0-9a-fA-F]{0,8}")
        for index, value in enumerate(filled.to_pylist()):
            if not digits.fullmatch(value):
                report(
                    index,
                    "hexadecimal",
                    f"is {shown(value)}, where one to eight hexadecimal digits are needed",
                )
        return np.zeros(len(array), np.uint64)
    result: np.ndarray = values.astype(np.uint64)
    result[blank] = BLANK_HEXADECIMAL
    return result


def _parts(array: pa.Array, column: CategoricalColumn, report: Report) -> np.ndarray:
    """The part of each date that is the id, int64."""
    needed = f"a date as {column.datetime_format!r} says"
    kind = array.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        # A cast alone would cut a time before 1970 to the second that follows.
        seconds = pc.floor_temporal(array, unit="second")
        seconds = seconds.cast(pa.timestamp("s"), safe=False).cast(pa.int64())
        values = np.array(pc.fill_null(seconds, 0).to_numpy(zero_copy_only=False))
    elif column.datetime_format == UNIX:
        needed = "a number of seconds since 1970 (to the year 9999)"
        values = integers(array, report)
        values[_nulls(array)] = 0
        for index in np.flatnonzero(np.abs(values) > _LAST_SECOND):
            report(int(index), "date", f"is {values[index]}, where {needed} is needed")
            values[index] = 0
    else:
        parse = _date_parser(str(column.datetime_format))
        values = _each(encoded(array), parse)(np.int64, needed, report)
    return _fill_missing(array, _part(values, str(column.part)), column.missing, needed, report)


def _date_parser(how: str) -> Callable[[bytes], int]:
    def parse(value: bytes) -> int:
        text = value.decode()
        if how == ISO:
            # Python 3.10 does not know the letter Z.
            date = datetime.datetime.fromisoformat(re.sub("[zZ]$", "+00:00", text))
        else:
            date = datetime.datetime.strptime(text, how)
        if date.tzinfo is None:
            date = date.replace(tzinfo=datetime.timezone.utc)
        return math.floor(date.timestamp())

    return parse


def _part(seconds: np.ndarray, part: str) -> np.ndarray:
    days: np.ndarray = seconds // 86_400
    if part == "hour_of_day":
        return (seconds - days * 86_400) // 3600
    if part == "weekday":
        # 1970 began on a Thursday.
        return (days + 3) % 7
    months: np.ndarray = days.astype("datetime64[D]").astype("datetime64[M]")
    if part == "month":
        return months.astype(np.int64) % 12
    if part == "day_of_month":
        return days - months.astype("datetime64[D]").astype(np.int64)
    raise DataError(f"The part of a date {part!r} is not known.")
