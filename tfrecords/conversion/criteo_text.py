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
from tfrecords.kinds.hexadecimal import NotHexadecimal, read_digits

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
            try:
                read_digits(array, categories[index - len(DENSE_NAMES)], blank[index])
            except NotHexadecimal as error:
                raise NotParsed(str(error)) from error
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
