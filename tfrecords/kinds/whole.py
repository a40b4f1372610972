"""Whole numbers of 32 bits and nothing around their digits, as Criteo's logs hold them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfrecords.kinds.integer import graph_integers, integers
from tfrecords.kinds.kind import Kind, Report, is_text, nulls, shown
from tfrecords.kinds.number import Number
from tfrecords.lazy import tf

# Arrow's parser of numbers also takes these: blanks around a number, and 0xFFFFFFFF for -1.
NOT_STRICT = (b" ", b"x", b"X")
CSV_TYPE = pa.int32()
_WHOLE_NUMBER = "-?0*[0-9]{1,19}"


class Whole(Number):
    """A whole number of 32 bits, transformed as `Number` says."""

    needed = "a whole number of 32 bits"
    csv_type = CSV_TYPE

    def accepts(self, type: pa.DataType) -> bool:
        """See `Number.accepts`."""
        return is_text(type) or bool(pa.types.is_integer(type))

    def read(self, array: pa.Array, report: Report) -> np.ndarray:
        """See `Number.read`."""
        if array.type != CSV_TYPE:
            array = pa.array(whole_numbers(array, self.needed, report), mask=nulls(array))
        return super().read(array, report)

    def graph_read(self, values: tf.Tensor, missing: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """See `Number.graph_read`."""
        whole, fits = _graph_whole(values)
        found, there = super().graph_read(whole, missing | ~fits)
        return found, (fits | missing) & there


class Bucket(Kind):
    """The bucket of a whole number of 32 bits, as the BARS benchmark makes it."""

    needed = Whole.needed
    needed_type = "whole numbers or text are needed for kind = 'bucket'"
    csv_type = CSV_TYPE
    key_bits = 33
    blank = np.uint64(1 << 32)
    example = "1"
    words = "the number x up to 2, else floor(ln(x)^2)"

    def accepts(self, type: pa.DataType) -> bool:
        """See `Kind.accepts`."""
        return is_text(type) or bool(pa.types.is_integer(type))

    def keys(self, values: pa.Array, report: Report) -> np.ndarray:
        """See `Kind.keys`."""
        whole = whole_numbers(values, self.needed, report)
        large = np.floor(np.log(np.maximum(whole, 3).astype(np.float64)) ** 2).astype(np.int32)
        buckets = np.where(whole > 2, large, whole.astype(np.int32))
        keys: np.ndarray = buckets.view(np.uint32).astype(np.uint64)
        keys[nulls(values)] = self.blank
        return keys

    def graph_keys(self, values: tf.Tensor, missing: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """See `Kind.graph_keys`."""
        whole, fits = _graph_whole(values)
        large = tf.floor(tf.square(tf.math.log(tf.cast(tf.maximum(whole, 3), tf.float64))))
        buckets = tf.where(whole > 2, tf.cast(large, tf.int64), whole)
        # As unsigned numbers of 32 bits.
        return self._or_blank(tf.math.floormod(buckets, 2**32), fits, missing)


def whole_numbers(values: pa.Array, needed: str, report: Report) -> np.ndarray:
    """Whole numbers of 32 bits.

    Args:
        values: Arrow array `[values]` of text or whole numbers.
        needed: What is needed, for messages.
        report: Told what is wrong.

    Returns:
        int64 `[values]`, 0 where null or something was reported.
    """
    wrong: np.ndarray = np.zeros(len(values), np.bool_)
    numbers = values
    if is_text(values.type):
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        values = values.cast(pa.binary())
        # Neither blanks nor 0x1F.
        digits = pc.match_substring_regex(values, f"^({_WHOLE_NUMBER})$")
        wrong |= ~pc.fill_null(digits, True).to_numpy(zero_copy_only=False)
        numbers = pc.if_else(digits, values, pa.scalar(b"0", pa.binary()))
    too_large: list[int] = []
    whole = integers(numbers, lambda index, *_: too_large.append(index))
    wrong[too_large] = True
    whole[nulls(values)] = 0
    wrong |= whole != whole.astype(np.int32)
    for index in np.flatnonzero(wrong):
        what = f"is {shown(values[int(index)].as_py())}, where {needed} is needed"
        report(int(index), "integer", what)
    whole[wrong] = 0
    return whole


def _graph_whole(values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Whole numbers of 32 bits, int64, 0 where there is none, and whether there is."""
    whole, fits = graph_integers(values)
    if values.dtype == tf.string:
        fits &= tf.strings.regex_full_match(values, _WHOLE_NUMBER)
    fits &= tf.equal(whole, tf.cast(tf.cast(whole, tf.int32), tf.int64))
    return tf.where(fits, whole, 0), fits
