"""Numbers of a dense column."""

from __future__ import annotations

import math
import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfrecords.kinds.kind import (
    ByValue,
    Report,
    encoded,
    fill_missing,
    is_number,
    is_text,
    parse_each,
)
from tfrecords.lazy import tf

# What Arrow's parser of CSV takes, so that a line is good or bad whatever stands beside it.
_PATTERN = r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
_NUMBER = re.compile(rf"[ \t]*({_PATTERN})[ \t]*")
_LARGEST = np.finfo(np.float32).max


class Number(ByValue):
    """A number, transformed.

    Args:
        transform: `none`, or `log1p`: `log(1 + max(x, 0))`.
        missing: The number (before the transform) that stands for a missing one; None: a row
            without it is a bad row.

    Attributes:
        needed: What a number must be, for messages.
        needed_type, csv_type: See `Kind`.
        example: The text of one.
    """

    needed = "a number"
    needed_type = "numbers or text are needed"
    csv_type = pa.float64()
    example = "1"

    def __init__(self, transform: str = "none", missing: float | None = None) -> None:
        self._transform = transform
        self._missing = missing

    @property
    def words(self) -> str:
        """What a value is; equal words are equal meanings."""
        return {"none": AS_IT_STANDS, "log1p": LOG1P}.get(self._transform, self._transform)

    @property
    def missing(self) -> float | None:
        """What stands for a missing number, transformed as far as that is exact."""
        if self._transform == "log1p" and self._missing is not None:
            return max(self._missing, 0.0)  # they are one number after the transform
        return self._missing

    def accepts(self, type: pa.DataType) -> bool:
        """See `Kind.accepts`."""
        return is_text(type) or is_number(type)

    def read(self, array: pa.Array, report: Report) -> np.ndarray:
        """The transformed numbers, float32 `[values]`.

        Args:
            array: Arrow array `[values]` of numbers or text.
            report: Told what is wrong.
        """
        values = numbers(array, self._missing, report)
        if self._transform == "log1p":
            # In float64 and then rounded once: the same on every machine.
            values = np.log1p(np.maximum(values, 0))
        with np.errstate(over="ignore"):
            rounded: np.ndarray = values.astype(np.float32)
        for row in np.flatnonzero(~np.isfinite(rounded)):
            report(int(row), "number", f"is {values[row]:g}, which a number of 32 bits cannot hold")
        return rounded

    def graph_read(self, values: tf.Tensor, missing: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The same in a graph: float32, and whether a value is a number.

        Args:
            values: Of any shape: string, or of a type of numbers.
            missing: bool, of that shape.
        """
        found, fits = graph_numbers(values)
        if self._missing is None:
            fits &= ~missing
        else:
            found = tf.where(missing, tf.constant(self._missing, tf.float64), found)
            fits |= missing
        if self._transform == "log1p":
            found = tf.math.log1p(tf.maximum(found, 0.0))
        rounded = tf.cast(found, tf.float32)
        return rounded, fits & tf.math.is_finite(rounded)


AS_IT_STANDS = "the number as it stands"
LOG1P = "log(1 + max(x, 0))"


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
        values = _of_text(array, report)
    else:
        filled = pc.fill_null(array.cast(pa.float64(), safe=False), 0.0)
        values = np.array(filled.to_numpy(zero_copy_only=False))
        for index in np.flatnonzero(~np.isfinite(values)):
            report(int(index), "number", f"is {values[index]}, where a number is needed")
            values[index] = 0
    return fill_missing(array, values, missing, "a number", report)


def graph_numbers(values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Numbers in a graph: float64, 0 where there is none, and whether there is."""
    if values.dtype != tf.string:
        found = tf.cast(values, tf.float64)
        fits = tf.math.is_finite(found)
    else:
        fits = tf.strings.regex_full_match(values, rf"[ \t]*{_PATTERN}[ \t]*")
        texts = tf.where(fits, tf.strings.regex_replace(values, r"[ \t]", ""), "0")
        found = tf.strings.to_number(texts, tf.float64)
        fits &= tf.math.is_finite(found)
    return tf.where(fits, found, tf.zeros_like(found)), fits


def _of_text(array: pa.Array, report: Report) -> np.ndarray:
    if not pa.types.is_dictionary(array.type):
        try:
            filled = pc.fill_null(array.cast(pa.binary()).cast(pa.string()).cast(pa.float64()), 0)
            values = np.array(filled.to_numpy(zero_copy_only=False))
            if np.isfinite(values).all():
                return values
        except pa.ArrowInvalid:
            pass
    return parse_each(
        encoded(array), lambda text: number_of(text.decode()), np.float64, "a number", report
    )


def number_of(text: str) -> float | None:
    """The number that a text is; None where it is none, or not a finite one."""
    match = _NUMBER.fullmatch(text)
    number = float(match[1]) if match else math.nan
    return number if math.isfinite(number) else None
