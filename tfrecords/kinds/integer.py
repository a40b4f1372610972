"""Whole numbers of 64 bits, without the smallest of them."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfrecords.kinds.kind import (
    Kind,
    Report,
    as_int64,
    encoded,
    fill_missing,
    is_number,
    is_text,
    nulls,
    parse_each,
)
from tfrecords.kinds.text import Text, graph_fingerprints
from tfrecords.lazy import tf

WHOLE_NUMBER = "a whole number of 64 bits"
SMALLEST = np.iinfo(np.int64).min
_LARGEST = np.iinfo(np.int64).max
# What Arrow's parser of CSV takes, so that a line is good or bad whatever stands beside it.
_DECIMAL = r"-?0*[0-9]{1,19}"
# 16 digits are the bits of a number, which may be negative.
_HEXADECIMAL = r"0[xX][0-9a-fA-F]{1,16}"
_WHOLE = re.compile(rf"[ \t]*(?:({_DECIMAL})|({_HEXADECIMAL}))[ \t]*")
# A number of 19 digits is read in two halves, of which neither is too large.
_HALF = 9


class Integer(Kind):
    """Whole numbers.

    Args:
        vocabulary_size: The values are ids below this; None: they are not.
        hash_buckets: The key is the hash of the number's digits, as of `Text`; None: it is not.
        missing: The id that stands for a missing value, with `vocabulary_size`.
    """

    options = ("vocabulary_size", "hash_buckets", "missing")
    csv_type = pa.int64()
    example = "0"
    needed_type = "numbers or text are needed"

    def __init__(
        self,
        vocabulary_size: int | None = None,
        hash_buckets: int | None = None,
        missing: int | None = None,
    ) -> None:
        self.size = vocabulary_size if hash_buckets is None else hash_buckets
        self._buckets = hash_buckets
        self._missing = missing
        self.needed = WHOLE_NUMBER
        if vocabulary_size is not None:
            self.needed = f"an id in [0, {vocabulary_size})"
        if hash_buckets is not None:
            self.blank = Text(hash_buckets).blank
        elif vocabulary_size is None:
            self.blank = np.uint64(1 << 63)  # the bits of the smallest
        elif missing is not None:
            self.blank = np.uint64(missing)

    @property
    def words(self) -> str:
        """See `Kind.words`."""
        if self._buckets is not None:
            return "the hash of integer"
        return "a counted integer value" if self.size is None else "an id as it stands"

    def accepts(self, type: pa.DataType) -> bool:
        """See `Kind.accepts`."""
        return is_text(type) or is_number(type)

    def keys(self, values: pa.Array, report: Report) -> np.ndarray:
        """See `Kind.keys`."""
        whole = integers(values, report)
        if self._buckets is not None:
            # As tf.strings.as_string writes them.
            digits = pa.array(whole, mask=nulls(values)).cast(pa.string())
            return Text(self._buckets).keys(digits, report)
        if self.size is None:
            return whole.view(np.uint64)
        whole[nulls(values)] = 0
        for index in np.flatnonzero((whole < 0) | (whole >= self.size)):
            report(int(index), "id", f"is {whole[index]}, where {self.needed} is needed")
            whole[index] = 0
        filled = fill_missing(values, whole, self._missing, self.needed, report)
        return filled.astype(np.uint64)

    def text_of(self, key: np.uint64) -> bytes | None:
        """See `Kind.text_of`."""
        if self.size is not None:
            return None if self._buckets is not None else b"%d" % key
        return b"" if key == self.blank else b"%d" % as_int64(key)

    def graph_keys(self, values: tf.Tensor, missing: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """See `Kind.graph_keys`."""
        whole, fits = graph_integers(values)
        if self._buckets is not None:
            digits = tf.where(missing, "", tf.strings.as_string(whole))
            return graph_fingerprints(digits, self._buckets), fits | missing
        if self.size is not None:
            fits &= (whole >= 0) & (whole < self.size)
        return self._or_blank(whole, fits, missing)


def integers(array: pa.Array, report: Report) -> np.ndarray:
    """Whole numbers.

    Args:
        array: Arrow array `[values]` of numbers or text.
        report: Told what is wrong.

    Returns:
        int64 `[values]`; the smallest of all where null, 0 where something was reported.
    """
    kind = array.type
    if is_text(kind):
        values = _of_text(array, report)
    elif pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_uint64(kind):
        # In Python's numbers, which are exact whatever came.
        values = parse_each(
            array,
            lambda value: int(value) if value == int(value) else None,
            np.int64,
            WHOLE_NUMBER,
            report,
        )
    else:
        filled = pc.fill_null(array.cast(pa.int64()), 0)
        values = np.array(filled.to_numpy(zero_copy_only=False))
    for index in np.flatnonzero(values == SMALLEST):
        report(int(index), "number", f"is {SMALLEST}, where {WHOLE_NUMBER} above it is needed")
        values[index] = 0
    if array.null_count:
        values[nulls(array)] = SMALLEST
    return values


def graph_integers(values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Whole numbers in a graph.

    Args:
        values: Of any shape: string, or of a type of whole numbers.

    Returns:
        int64, and bool: whether they are such numbers.
    """
    if values.dtype != tf.string:
        whole = tf.cast(values, tf.int64)
        return whole, tf.not_equal(whole, SMALLEST)
    texts = tf.strings.strip(values)
    decimal = tf.strings.regex_full_match(values, rf"[ \t]*{_DECIMAL}[ \t]*")
    hexadecimal = tf.strings.regex_full_match(values, rf"[ \t]*{_HEXADECIMAL}[ \t]*")
    negative = decimal & tf.equal(tf.strings.substr(texts, 0, 1), "-")
    digits = tf.where(decimal, tf.strings.regex_replace(texts, "^-?0*([0-9])", r"\1"), "0")
    upper = tf.strings.to_number(
        tf.strings.regex_replace(digits, rf"^([0-9]*?)([0-9]{{0,{_HALF}}})$", r"0\1"), tf.int64
    )
    lower = tf.strings.to_number(
        tf.strings.regex_replace(digits, rf"^([0-9]*?)([0-9]{{0,{_HALF}}})$", r"0\2"), tf.int64
    )
    base = 10**_HALF
    inside = (upper < _LARGEST // base) | (
        tf.equal(upper, _LARGEST // base) & (lower <= _LARGEST % base)
    )
    magnitude = tf.where(inside, upper, 0) * base + lower
    whole = tf.where(negative, -magnitude, magnitude)
    of_digits = graph_hexadecimal(
        tf.where(hexadecimal, tf.strings.regex_replace(texts, "^0[xX]", ""), "0"), 16
    )[0]
    return tf.where(hexadecimal, of_digits, whole), (decimal & inside) | hexadecimal


def graph_hexadecimal(texts: tf.Tensor, most: int) -> tuple[tf.Tensor, tf.Tensor]:
    """The value of hexadecimal digits, int64, and whether they are 1 to `most` of them."""
    codes: np.ndarray = np.full(256, 32, np.int64)  # no digit
    codes[0] = 16  # behind the end
    for digit, characters in enumerate("0 1 2 3 4 5 6 7 8 9 aA bB cC dD eE fF".split()):
        for character in characters:
            codes[ord(character)] = digit
    lengths = tf.strings.length(texts)
    characters = tf.io.decode_raw(texts, tf.uint8, fixed_length=most)
    digits = tf.gather(codes, tf.cast(characters, tf.int32))
    ended = tf.reduce_sum(tf.cast(tf.equal(digits, 16), tf.int32), -1)
    fits = tf.equal(ended, most - lengths) & (tf.reduce_max(digits, -1) < 32) & (lengths > 0)
    places = np.int64(16) ** np.arange(most - 1, -1, -1)
    numbers = tf.reduce_sum(digits % 16 * places, -1)
    behind = tf.cast(4 * tf.maximum(most - lengths, 0), tf.uint64)
    # As unsigned numbers, whose first bit is no sign.
    numbers = tf.bitwise.right_shift(tf.bitcast(numbers, tf.uint64), behind)
    return tf.bitcast(numbers, tf.int64), fits


def _of_text(array: pa.Array, report: Report) -> np.ndarray:
    if not pa.types.is_dictionary(array.type):
        try:
            filled = pc.fill_null(array.cast(pa.binary()).cast(pa.string()).cast(pa.int64()), 0)
            return np.array(filled.to_numpy(zero_copy_only=False))
        except pa.ArrowInvalid:
            pass
    return parse_each(
        encoded(array), lambda text: _whole(text.decode()), np.int64, WHOLE_NUMBER, report
    )


def _whole(text: str) -> int | None:
    match = _WHOLE.fullmatch(text)
    if match is None:
        return None
    if match[1]:
        return int(match[1])
    bits = int(match[2], 16)
    return bits - (1 << 64) if bits >= 1 << 63 else bits
