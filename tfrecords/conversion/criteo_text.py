"""Criteo's text: label, 13 whole numbers and 26 hexadecimal categories, separated by tabs."""

from __future__ import annotations

import dataclasses
import io
import re

import numpy as np
import pyarrow as pa
from pyarrow import csv

from tfrecords.conversion.formats import BadRow
from tfrecords.criteo_schema import CATEGORICAL_NAMES, DENSE_NAMES

COLUMNS = ("label", *DENSE_NAMES, *CATEGORICAL_NAMES)
_FIRST_CATEGORY = 1 + len(DENSE_NAMES)

_LABEL = re.compile(rb"-?0+|0*1")
_WHOLE_NUMBER = re.compile(rb"-?0*[0-9]{1,19}")
_HEXADECIMAL = re.compile(rb"[0-9a-fA-F]{1,8}")


@dataclasses.dataclass(frozen=True)
class CriteoRows:
    """Parsed rows.

    Attributes:
        label: uint8 `[rows]`, 0 or 1.
        integers: int32 `[13, rows]`; 0 where blank.
        categories: uint32 `[26, rows]`, the value of the hexadecimal digits; 0 where blank.
        blank: bool `[39, rows]`, which of the 13 + 26 fields are blank.
    """

    label: np.ndarray
    integers: np.ndarray
    categories: np.ndarray
    blank: np.ndarray


class NotParsed(Exception):
    """The text holds a line that is no row."""


def parse(text: bytes) -> CriteoRows:
    """Parses whole lines.

    Raises:
        NotParsed: If any line is no row; `find_bad_rows` tells which.
    """
    if any(byte in text for byte in (b" ", b"x", b"X")):
        # Arrow strips numbers, and takes 0xFFFFFFFF for -1.
        raise NotParsed("a number holds a blank or an x")
    try:
        table = csv.read_csv(
            io.BytesIO(text),
            read_options=csv.ReadOptions(
                use_threads=False, block_size=len(text) + 1, column_names=list(COLUMNS)
            ),
            parse_options=csv.ParseOptions(
                delimiter="\t", quote_char=False, ignore_empty_lines=False
            ),
            convert_options=_CONVERT,
        )
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise NotParsed(str(error)) from error
    arrays = [_one_array(column) for column in table.columns]
    label: np.ndarray = _numbers(arrays[0], np.dtype(np.int8)).view(np.uint8)
    if arrays[0].null_count or label.max(initial=0) > 1:
        raise NotParsed("a label is neither 0 nor 1")
    rows = len(label)
    integers: np.ndarray = np.empty((len(DENSE_NAMES), rows), np.int32)
    categories: np.ndarray = np.empty((len(CATEGORICAL_NAMES), rows), np.uint32)
    blank: np.ndarray = np.zeros((len(DENSE_NAMES) + len(CATEGORICAL_NAMES), rows), np.bool_)
    for index, array in enumerate(arrays[1:]):
        if index < len(DENSE_NAMES):
            integers[index] = _numbers(array, np.dtype(np.int32))
            if array.null_count:
                blank[index] = array.is_null().to_numpy(zero_copy_only=False)
                integers[index][blank[index]] = 0
        else:
            hexadecimal(array, categories[index - len(DENSE_NAMES)], blank[index])
    return CriteoRows(label, integers, categories, blank)


_CONVERT = csv.ConvertOptions(
    check_utf8=False,
    null_values=[""],
    strings_can_be_null=False,
    column_types={
        "label": pa.int8(),
        **dict.fromkeys(DENSE_NAMES, pa.int32()),
        **dict.fromkeys(CATEGORICAL_NAMES, pa.binary()),
    },
)


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _numbers(array: pa.Array, dtype: np.dtype) -> np.ndarray:
    """The values as they lie in memory; undefined where null."""
    return np.frombuffer(array.buffers()[1], dtype)[array.offset : array.offset + len(array)]


def hexadecimal(array: pa.Array, values: np.ndarray, blank: np.ndarray) -> None:
    """Reads hexadecimal digits, eight characters at a time in one 64-bit number.

    Args:
        array: pyarrow binary array `[rows]`; empty where blank.
        values: uint32 `[rows]`, filled with the values; 0 where blank.
        blank: bool `[rows]`, filled.

    Raises:
        NotParsed: If a value is not of one to eight hexadecimal digits.
    """
    _, offset_buffer, data_buffer = array.buffers()
    offsets = np.frombuffer(offset_buffer, np.int32)[array.offset : array.offset + len(array) + 1]
    lengths = np.diff(offsets)
    np.equal(lengths, 0, out=blank)
    if not len(array) or blank.all():
        values[:] = 0
        return
    data = np.frombuffer(data_buffer, np.uint8)[offsets[0] : offsets[-1]]
    if ((lengths == 8) | blank).all():
        words = np.ascontiguousarray(data).view("<u8")
    else:
        words = _padded(data, lengths[~blank])
    if len(words) == len(values):
        values[:] = _hexadecimal_words(words)
    else:
        values[:] = 0
        values[~blank] = _hexadecimal_words(words)


def _padded(data: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Texts of one to eight characters, with "0" before them up to eight, as 64-bit words."""
    if lengths.max() > 8:
        raise NotParsed("a category has more than eight digits")
    padded: np.ndarray = np.full((len(lengths), 8), ord("0"), np.uint8)
    starts = np.cumsum(lengths) - lengths
    within = np.arange(len(data)) - np.repeat(starts, lengths)
    padded[
        np.repeat(np.arange(len(lengths)), lengths), np.repeat(8 - lengths, lengths) + within
    ] = data
    return padded.reshape(-1).view("<u8")


def _bytes(value: int) -> np.uint64:
    return np.uint64(value * 0x0101010101010101)


def _hexadecimal_words(words: np.ndarray) -> np.ndarray:
    """Values of words of eight characters each, the first character in the lowest byte."""
    # 1 in the byte of every letter: 'a'..'f' and 'A'..'F' have bit 6, digits have not.
    letters = (words >> np.uint64(6)) & _bytes(1)
    digits = ((words & _bytes(0x0F)) + letters * np.uint64(9)) & _bytes(0x0F)
    # Written as digits again: equal to what came (in lower case) only if that was hexadecimal.
    above_nine = ((digits + _bytes(6)) >> np.uint64(4)) & _bytes(1)
    again = digits + _bytes(0x30) + above_nine * np.uint64(0x27)
    if not np.array_equal(again, words | (letters << np.uint64(5))):
        raise NotParsed("a category is not hexadecimal")
    pairs = ((digits << np.uint64(4)) | (digits >> np.uint64(8))) & np.uint64(0x00FF00FF00FF00FF)
    fours = ((pairs << np.uint64(8)) | (pairs >> np.uint64(16))) & np.uint64(0x0000FFFF0000FFFF)
    return ((fours << np.uint64(16)) | (fours >> np.uint64(32))).astype(np.uint32)


def find_bad_rows(text: bytes) -> tuple[list[bytes], list[BadRow]]:
    """Looks at each line by itself.

    Returns:
        The lines that are rows, and the ones that are not.
    """
    good, bad = [], []
    lines = text.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    for number, line in enumerate(lines):
        fault = _fault(line.removesuffix(b"\r"))
        if fault is None:
            good.append(line)
        else:
            bad.append(BadRow(number, *fault))
    return good, bad


def _fault(line: bytes) -> tuple[str, str] | None:
    """Kind and clause of what is wrong with a line, or None."""
    fields = line.split(b"\t")
    if len(fields) != len(COLUMNS):
        return "number of columns", f"it has {len(fields)} columns, where {len(COLUMNS)} are needed"
    if not _LABEL.fullmatch(fields[0]):
        return "label", f"column 'label' is {_shown(fields[0])}, where 0 or 1 is needed"
    for name, field in zip(DENSE_NAMES, fields[1:_FIRST_CATEGORY], strict=True):
        if field and not (_WHOLE_NUMBER.fullmatch(field) and -(2**31) <= int(field) < 2**31):
            return "integer", (
                f"column {name!r} is {_shown(field)}, where a whole number of 32 bits or nothing "
                "is needed"
            )
    for name, field in zip(CATEGORICAL_NAMES, fields[_FIRST_CATEGORY:], strict=True):
        if field and not _HEXADECIMAL.fullmatch(field):
            return "category", (
                f"column {name!r} is {_shown(field)}, where one to eight hexadecimal digits or "
                "nothing are needed"
            )
    return None


def _shown(field: bytes) -> str:
    """A field for a message: as text, or its bytes where it is not UTF-8; at most 40 characters."""
    try:
        shown = repr(field.decode("utf-8"))
    except UnicodeDecodeError:
        shown = f"{field!r} (not UTF-8)"
    return shown if len(shown) <= 60 else shown[:57] + "..."
