"""Hexadecimal digits of up to 32 bits, as in Criteo's logs."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfrecords.kinds.integer import graph_hexadecimal
from tfrecords.kinds.kind import Kind, Report, is_text, shown
from tfrecords.lazy import tf

# A key that no number of 32 bits is.
BLANK = np.uint64(1 << 32)
_DIGITS = re.compile(rb"[0-9a-fA-F]{0,8}")


class NotHexadecimal(Exception):
    """A value is none of one to eight hexadecimal digits."""


class Hexadecimal(Kind):
    """One to eight hexadecimal digits; the key is their number, and `BLANK` where there is none.

    Args:
        modulo: The number is taken modulo this; None: as it is.
        missing: The number that stands for a missing value; None: such a value is one of its own.
    """

    options = ("modulo", "missing")
    csv_type = pa.binary()
    key_bits = 33
    example = "0"
    needed = "one to eight hexadecimal digits"
    needed_type = "text is needed for kind = 'hexadecimal'"

    def __init__(self, modulo: int | None = None, missing: int | None = None) -> None:
        self._modulo = modulo
        self._missing = missing
        self.blank: np.uint64 = BLANK if missing is None else np.uint64(missing)

    @property
    def words(self) -> str:
        """See `Kind.words`."""
        words = "a counted hexadecimal value"
        # The values have 32 bits, so that no larger range changes any.
        if self._modulo is not None and self._modulo < 1 << 32:
            words += f" modulo {self._modulo}"
        return words if self._missing is None else f"{words}, {self._missing} where blank"

    def accepts(self, type: pa.DataType) -> bool:
        """See `Kind.accepts`."""
        return is_text(type)

    def keys(self, values: pa.Array, report: Report) -> np.ndarray:
        """See `Kind.keys`."""
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        filled = _without_bytes(values.cast(pa.binary()))
        numbers: np.ndarray = np.zeros(len(values), np.uint32)
        blank: np.ndarray = np.zeros(len(values), np.bool_)
        try:
            read_digits(filled, numbers, blank)
        except NotHexadecimal:
            texts = filled.to_pylist()
            for index, value in enumerate(texts):
                if not _DIGITS.fullmatch(value or b""):
                    what = f"is {shown(value)}, where {self.needed} are needed"
                    report(index, "hexadecimal", what)
                    texts[index] = b""
            read_digits(pa.array(texts, pa.binary()), numbers, blank)
        keys: np.ndarray = numbers.astype(np.uint64)
        if self._modulo:
            keys %= np.uint64(self._modulo)
        keys[blank] = self.blank
        return keys

    def text_of(self, key: np.uint64) -> bytes | None:
        """See `Kind.text_of`."""
        return b"" if key == BLANK else b"%08x" % int(key)

    def graph_keys(self, values: tf.Tensor, missing: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """See `Kind.graph_keys`."""
        missing |= tf.equal(values, "")
        numbers, fits = graph_hexadecimal(values, 8)
        if self._modulo:
            numbers = tf.math.floormod(numbers, self._modulo)
        return self._or_blank(numbers, fits, missing)


def _without_bytes(texts: pa.Array) -> pa.Array:
    """The array, whose nulls take no bytes, as Arrow's parser of CSV leaves them."""
    if not texts.null_count:
        return texts
    offsets = np.frombuffer(texts.buffers()[1], np.int32)[texts.offset :]
    used = pc.sum(pc.binary_length(texts)).as_py() or 0
    return texts if used == offsets[len(texts)] - offsets[0] else pc.fill_null(texts, b"")


def read_digits(array: pa.Array, values: np.ndarray, blank: np.ndarray) -> None:
    """Reads hexadecimal digits, eight characters at a time in one 64-bit number.

    Args:
        array: pyarrow binary array `[rows]`; of no bytes where blank.
        values: uint32 `[rows]`, filled with the values; 0 where blank.
        blank: bool `[rows]`, filled.

    Raises:
        NotHexadecimal: If a value is not of one to eight hexadecimal digits.
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
        raise NotHexadecimal("a value has more than eight digits")
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
        raise NotHexadecimal("a value is not hexadecimal")
    pairs = ((digits << np.uint64(4)) | (digits >> np.uint64(8))) & np.uint64(0x00FF00FF00FF00FF)
    fours = ((pairs << np.uint64(8)) | (pairs >> np.uint64(16))) & np.uint64(0x0000FFFF0000FFFF)
    return ((fours << np.uint64(16)) | (fours >> np.uint64(32))).astype(np.uint32)
