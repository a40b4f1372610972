"""How the rows of a table that is only looked up are kept: as floats, or quantised row by row."""

from __future__ import annotations

import abc

import numpy as np
import tensorflow as tf

TABLE_DTYPES = ("float32", "bfloat16", "float16", "int8", "int4")


class RowFormat(abc.ABC):
    """Rows of floats as rows of a variable, and back.

    Attributes:
        name: One of `TABLE_DTYPES`.
        dtype: Type of the variable.
    """

    name: str
    dtype: tf.DType

    @abc.abstractmethod
    def width(self, dim: int) -> int:
        """Returns the number of columns of the variable for rows of `dim` numbers."""

    @abc.abstractmethod
    def encode(self, rows: np.ndarray) -> np.ndarray:
        """Returns float32 [n, dim] as rows [n, width] of the variable, if they can be kept."""

    @abc.abstractmethod
    def decode(self, rows: tf.Tensor, dim: int) -> tf.Tensor:
        """Returns rows [n, width] of the variable as float32 [n, dim]."""

    def row_bytes(self, dim: int) -> int:
        """Returns the bytes of one row."""
        return self.width(dim) * self.dtype.size


def row_format(table_dtype: str) -> RowFormat:
    """Returns the format of a name.

    Raises:
        ValueError: If there is none.
    """
    if table_dtype in ("int8", "int4"):
        return _Quantised(table_dtype)
    if table_dtype in TABLE_DTYPES:
        return _Floats(table_dtype)
    raise ValueError(f"table_dtype must be one of {TABLE_DTYPES}, but is {table_dtype!r}.")


class _Floats(RowFormat):
    """Every number rounded to a float type."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dtype = tf.as_dtype(name)

    def width(self, dim: int) -> int:
        return dim

    def encode(self, rows: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            encoded: np.ndarray = rows.astype(self.dtype.as_numpy_dtype)
        lost = np.isfinite(rows) & ~np.isfinite(encoded)
        if lost.any():
            raise ValueError(f"{rows[lost][0]} is outside the range of {self.name}.")
        return encoded

    def decode(self, rows: tf.Tensor, dim: int) -> tf.Tensor:
        del dim
        return tf.cast(rows, tf.float32)


class _Quantised(RowFormat):
    """Whole numbers q of 8 or 4 bits, with a scale s and an offset z for each row: x = s (q - z).

    A row is the bytes of its numbers (two to a byte where they have 4 bits, the even column in the
    low half), the scale as bfloat16 (two bytes, little-endian) and the offset (one byte), so that
    one gather fetches all of it. The row's range is widened to hold 0, which is kept exactly, and
    no number is off by more than half the scale.

    bfloat16 has the range of float32, so rows of any magnitude have a scale; its few digits cost
    nothing, since numbers are quantised with the rounded scale.
    """

    dtype = tf.uint8

    def __init__(self, name: str) -> None:
        self.name = name
        self._bits = int(name.removeprefix("int"))
        self._most = 2**self._bits - 1

    def width(self, dim: int) -> int:
        return -(-dim * self._bits // 8) + 3

    def encode(self, rows: np.ndarray) -> np.ndarray:
        if not np.isfinite(rows).all():
            raise ValueError(f"{self.name} cannot keep numbers that are not finite.")
        low = np.minimum(rows.min(1), 0.0).astype(np.float64)
        high = np.maximum(rows.max(1), 0.0).astype(np.float64)
        # One part is for the offset, which is rounded to a whole number too.
        scale = _bfloat16_not_below((high - low) / (self._most - 1))
        divisor = np.where(scale > 0, scale, np.float32(1.0))
        offset = np.ceil(-low / divisor).astype(np.float32)
        numbers = np.rint(rows / divisor[:, np.newaxis]) + offset[:, np.newaxis]
        numbers = np.clip(numbers, 0, self._most).astype(np.uint8)
        if self._bits == 4:
            if numbers.shape[1] % 2:
                numbers = np.pad(numbers, [(0, 0), (0, 1)])
            numbers = numbers[:, ::2] | numbers[:, 1::2] << 4
        half: np.ndarray = scale.astype(tf.bfloat16.as_numpy_dtype)
        scale_bytes: np.ndarray = half.view(np.uint8).reshape(-1, 2)
        return np.concatenate([numbers, scale_bytes, offset.astype(np.uint8)[:, np.newaxis]], 1)

    def decode(self, rows: tf.Tensor, dim: int) -> tf.Tensor:
        width = self.width(dim)
        scale = tf.cast(tf.bitcast(rows[:, width - 3 : width - 1], tf.bfloat16), tf.float32)
        if self._bits == 8:
            # q - z of all columns as one product, which is faster than slices and a difference.
            minus: np.ndarray = np.eye(width, dim, dtype=np.float32)
            minus[-1] = -1.0
            return tf.matmul(tf.cast(rows, tf.float32), minus) * scale[:, tf.newaxis]
        numbers = rows[:, : width - 3]
        halves = [tf.bitwise.bitwise_and(numbers, 15), tf.bitwise.right_shift(numbers, 4)]
        numbers = tf.reshape(tf.stack(halves, 2), [-1, 2 * (width - 3)])[:, :dim]
        offset = tf.cast(rows[:, width - 1 :], tf.float32)
        return (tf.cast(numbers, tf.float32) - offset) * scale[:, tf.newaxis]


def _bfloat16_not_below(values: np.ndarray) -> np.ndarray:
    """Returns float32 numbers that bfloat16 holds exactly: the least ones not below `values`."""
    upper: np.ndarray = values.astype(np.float32)
    upper = np.where(upper < values, np.nextafter(upper, np.float32(np.inf)), upper)
    bits: np.ndarray = upper.view(np.uint32)
    return ((bits + np.uint32(0xFFFF)) & np.uint32(0xFFFF0000)).view(np.float32)
