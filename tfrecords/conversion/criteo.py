"""Criteo's click logs, Kaggle and Terabyte, as an input format."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfrecords.conversion import criteo_text, text_input
from tfrecords.conversion.formats import InputColumn, Parsed, Piece
from tfrecords.conversion.rows import Rows
from tfrecords.criteo_schema import CATEGORICAL_NAMES, DENSE_NAMES
from tfrecords.errors import DataError
from tfrecords.kinds.hexadecimal import BLANK, Hexadecimal
from tfrecords.kinds.integer import graph_integers, integers
from tfrecords.kinds.kind import Kind, Report, is_text, nulls, shown
from tfrecords.kinds.number import Number
from tfrecords.lazy import tf

TERABYTE_DAYS = 24
BUCKETIZED = tuple(f"{name}_bucket" for name in DENSE_NAMES)
_AS_ZERO = "as 0"
_WHOLE_NUMBER = "-?0*[0-9]{1,19}"


class CriteoFormat:
    """Lines of a label, 13 whole numbers and 26 hexadecimal categories, separated by tabs.

    The numbers become `log(1 + max(x, 0))`, 0 where blank. The key of a category is its value, and
    `BLANK` where it is blank.

    Args:
        name: "kaggle" or "terabyte"; their lines are of one kind.
        max_index_range: Categories are taken modulo this; 0: not.
        bucketize_dense: Add the numbers as 13 further categorical columns.
        reference: Blank categories count as 0, as in the code of the DLRM paper.
        piece_bytes: About how many bytes of text are parsed at once; None for the default.

    Raises:
        DataError: If a value is not allowed or two contradict each other.
    """

    label = "label"
    dense = DENSE_NAMES
    lines = True

    def __init__(
        self,
        name: str = "kaggle",
        max_index_range: int = 0,
        bucketize_dense: bool = False,
        reference: bool = False,
        piece_bytes: int | None = None,
    ) -> None:
        if max_index_range < 0:
            raise DataError(
                f"--max_index_range must be at least 1, or 0 for none, not {max_index_range}."
            )
        if reference and bucketize_dense:
            raise DataError(
                "--reference keeps the 13 integers as numbers only, so --bucketize_dense "
                "contradicts it; leave one of them out."
            )
        self.name = name
        self._max_index_range = max_index_range
        self._bucketize_dense = bucketize_dense
        self._reference = reference
        self._blank = np.uint64(0) if reference else BLANK
        self._piece_bytes = piece_bytes
        names = CATEGORICAL_NAMES + (BUCKETIZED if bucketize_dense else ())
        self.columns = tuple(InputColumn(name) for name in names)

    def describe(self) -> dict[str, Any]:
        """Name and options; see `InputFormat.describe`."""
        return {
            "name": self.name,
            "max_index_range": self._max_index_range,
            "bucketize_dense": self._bucketize_dense,
            "dense": "log(1 + max(x, 0)), 0 where blank",
            "blank_categories": _AS_ZERO if self._reference else "a value of their own",
        }

    def pieces(self, path: str, start: int = 0) -> Iterator[Piece]:
        """Reads a file; see `InputFormat.pieces`."""
        size = self._piece_bytes or text_input.PIECE_BYTES
        return text_input.text_pieces(path, start, size, "Criteo text")

    def parse(self, piece: Piece) -> Parsed:
        """Parses a piece; see `InputFormat.parse`."""
        try:
            if piece.data.count(b"\r") != piece.data.count(b"\r\n"):
                # Arrow takes a carriage return for the end of a line.
                raise criteo_text.NotParsed("a line holds a carriage return")
            text = criteo_text.parse(piece.data)
            return Parsed(len(text.label), self.rows(text), [])
        except criteo_text.NotParsed as error:
            good, bad = criteo_text.find_bad_rows(piece.data)
            if not bad:
                raise DataError(f"A part of {piece.path} cannot be parsed: {error}.") from error
        rows = None
        if good:
            rows = self.rows(criteo_text.parse(b"\n".join(good) + b"\n"))
        return Parsed(len(good) + len(bad), rows, bad)

    def rows(self, text: criteo_text.CriteoRows) -> Rows:
        """The values of the text as the conversion takes them."""
        # In float64 and then rounded once: the same on every machine.
        dense = np.log1p(np.maximum(text.integers, 0).astype(np.float64)).astype(np.float32)
        hexadecimal = Hexadecimal(self._max_index_range, self._blank)
        keys = [
            hexadecimal.of_numbers(text.categories[index], text.blank[len(DENSE_NAMES) + index])
            for index in range(len(CATEGORICAL_NAMES))
        ]
        if self._bucketize_dense:
            keys += map(Bucket.of_numbers, text.integers, text.blank)
        return Rows(text.label.astype(np.float32), dense, tuple(keys), (None,) * len(keys))


def blank(blank_categories: str) -> np.uint64:
    """The key of a blank category, of what `CriteoFormat.describe` says of them."""
    return np.uint64(0) if blank_categories == _AS_ZERO else BLANK


class WholeNumber(Number):
    """One of the 13 numbers, as text in a graph: a whole number of 32 bits, 0 where blank."""

    needed = "a whole number of 32 bits"

    def __init__(self) -> None:
        super().__init__("log1p", 0.0)

    def read(self, array: pa.Array, report: Report) -> np.ndarray:
        """See `Number.read`."""
        return super().read(pa.array(_whole(array, report)), report)

    def graph_read(self, values: tf.Tensor, missing: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """See `Number.graph_read`."""
        whole, fits = _graph_whole(values)
        return super().graph_read(whole, missing | ~fits)[0], fits | missing


class Bucket(Kind):
    """The bucket of one of the 13 numbers, as text in a graph; `CriteoFormat.rows` makes it too."""

    needed = WholeNumber.needed
    needed_type = "text is needed"
    key_bits = 33
    blank = BLANK
    example = "1"
    words = "the number x up to 2, else floor(ln(x)^2)"

    def accepts(self, type: pa.DataType) -> bool:
        """See `Kind.accepts`."""
        return is_text(type)

    def keys(self, values: pa.Array, report: Report) -> np.ndarray:
        """See `Kind.keys`."""
        return self.of_numbers(_whole(values, report).astype(np.int32), nulls(values))

    @staticmethod
    def of_numbers(whole: np.ndarray, blank: np.ndarray) -> np.ndarray:
        """The keys of numbers, uint64.

        Args:
            whole: int32 `[values]`.
            blank: bool `[values]`, which of them are missing.
        """
        keys: np.ndarray = bucketized(whole).view(np.uint32).astype(np.uint64)
        keys[blank] = BLANK
        return keys

    def graph_keys(self, values: tf.Tensor, missing: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """See `Kind.graph_keys`."""
        whole, fits = _graph_whole(values)
        large = tf.floor(tf.square(tf.math.log(tf.cast(tf.maximum(whole, 3), tf.float64))))
        buckets = tf.where(whole > 2, tf.cast(large, tf.int64), whole)
        # As unsigned numbers of 32 bits.
        return self._or_blank(tf.math.floormod(buckets, 2**32), fits, missing)


def _whole(texts: pa.Array, report: Report) -> np.ndarray:
    """Whole numbers of 32 bits, int64, 0 where null or something was reported."""
    texts = texts.cast(pa.binary())
    # Neither blanks nor 0x1F.
    digits = pc.match_substring_regex(texts, f"^({_WHOLE_NUMBER})$")
    too_large: list[int] = []
    numbers = pc.if_else(digits, texts, pa.scalar(b"0", pa.binary()))
    whole = integers(numbers, lambda index, *_: too_large.append(index))
    wrong = ~pc.fill_null(digits, True).to_numpy(zero_copy_only=False)
    wrong[too_large] = True
    whole[nulls(texts)] = 0
    wrong |= whole != whole.astype(np.int32)
    for index in np.flatnonzero(wrong):
        what = f"is {shown(texts[int(index)].as_py())}, where {WholeNumber.needed} is needed"
        report(int(index), "number", what)
    whole[wrong] = 0
    return whole


def _graph_whole(texts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Whole numbers of 32 bits, int64, 0 where there is none, and whether there is."""
    whole, fits = graph_integers(texts)
    fits &= tf.strings.regex_full_match(texts, _WHOLE_NUMBER)
    fits &= tf.equal(whole, tf.cast(tf.cast(whole, tf.int32), tf.int64))
    return tf.where(fits, whole, 0), fits


def bucketized(values: np.ndarray) -> np.ndarray:
    """Whole numbers to buckets as BARS does: `floor(ln(x)**2)` above 2, the number itself else.

    Args:
        values: int32 of any shape.

    Returns:
        int32 of the same shape.
    """
    large = np.floor(np.log(np.maximum(values, 3).astype(np.float64)) ** 2).astype(np.int32)
    return np.where(values > 2, large, values)


def day_files(
    inputs: list[str],
    days: str,
    is_folder: Callable[[str], bool] = os.path.isdir,
    is_file: Callable[[str], bool] = os.path.isfile,
) -> list[str]:
    """The files of the Terabyte log in the order of time.

    Args:
        inputs: One folder with `day_0` to `day_23`, plain or `.gz`; or the files themselves, which
            are taken as they are.
        days: Which days of the folder, for example "0-6,23"; empty for all there are.
        is_folder: Whether a path is a folder.
        is_file: Whether it is a file.

    Raises:
        DataError: If a day is missing or none is there.
    """
    if len(inputs) != 1 or not is_folder(inputs[0]):
        if days:
            raise DataError(
                f"--days={days} chooses among the files of one folder; --input names files, so "
                "leave --days out."
            )
        return inputs
    folder = inputs[0]
    found = {day: _day_file(folder, day, is_file) for day in range(TERABYTE_DAYS)}
    there = {day: path for day, path in found.items() if path is not None}
    if not days:
        if not there:
            raise DataError(f"The folder {folder!r} holds none of day_0 to day_23, plain or .gz.")
        for day in range(min(there), max(there)):
            if day not in there:
                raise DataError(
                    f"The folder {folder!r} holds day_{min(there)} to day_{max(there)} but not "
                    f"day_{day}; fetch it, or name the days to use by --days."
                )
        return list(there.values())
    wanted = parse_days(days)
    for day in wanted:
        if day not in there:
            raise DataError(
                f"The folder {folder!r} holds neither day_{day} nor day_{day}.gz, which "
                f"--days={days} asks for."
            )
    return [there[day] for day in wanted]


def _day_file(folder: str, day: int, is_file: Callable[[str], bool]) -> str | None:
    for name in (f"day_{day}", f"day_{day}.gz"):
        path = os.path.join(folder, name)
        if is_file(path):
            return path
    return None


def parse_days(text: str) -> list[int]:
    """Reads the value of `--days`: days and ranges of days, separated by commas, ascending.

    Raises:
        DataError: If it is none, or names a day twice.
    """
    days: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,2})(?:-([0-9]{1,2}))?\s*", part)
        first = int(match[1]) if match else -1
        last = int(match[2] or first) if match else -1
        if not 0 <= first <= last < TERABYTE_DAYS or (days and first <= days[-1]):
            raise DataError(
                "--days must be days from 0 to 23 and ranges of them such as 0-6,23, ascending, "
                f"not {text!r}."
            )
        days.extend(range(first, last + 1))
    return days
