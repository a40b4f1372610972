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
    """A number, clipped and transformed.

    Args:
        transform: `none`; `log1p`: `log(1 + max(x, 0))`; `standardise`: `(x - mean) / deviation`;
            `quantiles`: the share of `boundaries` that are at most x.
        missing: The number (before all else) that stands for a missing one; None: a row without it
            is a bad row.
        low: Smaller numbers become this one; None: they stay.
        high: Larger numbers become this one; None: they stay.
        mean: For `standardise`; None: it is not learnt yet.
        deviation: For `standardise`, above 0.
        boundaries: For `quantiles`, ascending; empty: they are not learnt yet.

    Attributes:
        needed: What a number must be, for messages.
        needed_type, csv_type: See `Kind`.
        example: The text of one.
    """

    needed = "a number"
    needed_type = "numbers or text are needed"
    csv_type = pa.float64()
    example = "1"

    def __init__(
        self,
        transform: str = "none",
        missing: float | None = None,
        low: float | None = None,
        high: float | None = None,
        mean: float | None = None,
        deviation: float | None = None,
        boundaries: tuple[float, ...] = (),
    ) -> None:
        self._transform = transform
        self._missing = missing
        self._low = -math.inf if low is None else low
        self._high = math.inf if high is None else high
        self._mean, self._deviation = mean, deviation
        self._boundaries = boundaries

    @property
    def to_learn(self) -> bool:
        """Whether constants of the transform are still to be learnt from rows for training."""
        if self._transform == STANDARDISE:
            return self._mean is None
        return self._transform == QUANTILES and not self._boundaries

    @property
    def words(self) -> str:
        """What a value is; equal words are equal meanings."""
        words = {
            "none": AS_IT_STANDS,
            "log1p": LOG1P,
            STANDARDISE: f"(x - {self._mean!r}) / {self._deviation!r}",
            QUANTILES: f"its place among {', '.join(map(repr, self._boundaries))}",
        }[self._transform]
        if math.isfinite(self._low) or math.isfinite(self._high):
            words += f" of the number from {self._low!r} to {self._high!r}"
        return words

    @property
    def missing(self) -> float | None:
        """What stands for a missing number, transformed as far as that is exact."""
        if self._missing is None:
            return None
        missing = min(max(self._missing, self._low), self._high)
        # They are one number after the transform.
        return max(missing, 0.0) if self._transform == "log1p" else missing

    def accepts(self, type: pa.DataType) -> bool:
        """See `Kind.accepts`."""
        return is_text(type) or is_number(type)

    def read(self, array: pa.Array, report: Report) -> np.ndarray:
        """The transformed numbers, float32 `[values]`; the clipped ones where there is `to_learn`.

        Args:
            array: Arrow array `[values]` of numbers or text.
            report: Told what is wrong.
        """
        values = numbers(array, self._missing, report)
        clipped = np.clip(values, self._low, self._high)
        if self._transform == "log1p":
            # In float64 and then rounded once: the same on every machine.
            clipped = np.log1p(np.maximum(clipped, 0))
        with np.errstate(over="ignore", invalid="ignore"):
            rounded = clipped.astype(np.float32)
            found = rounded if self.to_learn else self.finish(rounded)
        for row in np.flatnonzero(~(np.isfinite(rounded) & np.isfinite(found))):
            report(int(row), "number", f"is {values[row]:g}, which a number of 32 bits cannot hold")
        return found

    def finish(self, values: np.ndarray) -> np.ndarray:
        """What the learnt constants make of clipped numbers, float32 `[values]`."""
        if self._transform not in (STANDARDISE, QUANTILES):
            return values.astype(np.float32)
        values = _normal(values)
        found: np.ndarray
        if self._transform == STANDARDISE:
            found = (values.astype(np.float64) - self._mean) / self._deviation
        else:
            boundaries = np.array(self._boundaries)
            found = np.asarray(np.searchsorted(boundaries, values, side="right") / len(boundaries))
        return _normal(found.astype(np.float32))

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
        found = tf.clip_by_value(found, np.float64(self._low), np.float64(self._high))
        if self._transform == "log1p":
            found = tf.math.log1p(tf.maximum(found, 0.0))
        rounded = tf.cast(found, tf.float32)
        fits &= tf.math.is_finite(rounded)
        if self._transform == STANDARDISE:
            wide = (tf.cast(rounded, tf.float64) - self._mean) / self._deviation
            rounded = tf.cast(wide, tf.float32)
        elif self._transform == QUANTILES:
            boundaries = tf.constant(self._boundaries, tf.float64)
            flat = tf.reshape(tf.cast(rounded, tf.float64), [-1])
            below = tf.searchsorted(boundaries, flat, side="right")
            share = tf.cast(below, tf.float64) / len(self._boundaries)
            rounded = tf.reshape(tf.cast(share, tf.float32), tf.shape(rounded))
        return rounded, fits & tf.math.is_finite(rounded)


AS_IT_STANDS = "the number as it stands"
LOG1P = "log(1 + max(x, 0))"
STANDARDISE, QUANTILES = "standardise", "quantiles"
TRANSFORMS = ("none", "log1p", STANDARDISE, QUANTILES)


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


def _normal(values: np.ndarray) -> np.ndarray:
    """Numbers below the smallest normal one are 0, as they are in TensorFlow's operations."""
    return np.where(np.abs(values) < np.finfo(np.float32).tiny, np.float32(0), values)


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
