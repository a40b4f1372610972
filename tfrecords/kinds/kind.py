"""What a kind of values is: from the values of a column to keys, by Arrow and in a graph."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfrecords.lazy import tf

# Called with the position of a value, the kind of what is wrong, and what is wrong as a clause.
Report = Callable[[int, str, str], None]
# As what Arrow's parser of CSV reads text.
TEXT = pa.dictionary(pa.int32(), pa.binary())


class ByValue:
    """Objects that are equal if they are of one class and all their attributes are."""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), tuple(sorted(vars(self).items()))))


class Kind(ByValue, abc.ABC):
    """What the values of a categorical column mean. A new kind is one class.

    It says so twice: `keys` for Arrow's arrays, which conversions read, and `graph_keys` for the
    graphs of models that are served and of tables that are read directly. Both give the same keys,
    or refuse the same values: tests/tfrecords/kinds compares them.

    Attributes:
        options: What of a described column its constructor takes, by name.
        size: The keys are ids below this; None where ids are made by counting keys.
        blank: The key of a missing value; None where a row without a value is a bad row.
        csv_type: As what Arrow's parser of CSV reads a column of one value a row.
        key_bits: All keys are below 2 to the power of this.
        example: The text of some value.
        needed: What a value must be, for messages.
        needed_type: Of which types a column of Parquet must be, for messages.
        words: What a value is, as the rest of a sentence: "Feature price is ...".
    """

    options: tuple[str, ...] = ()
    size: int | None = None
    blank: np.uint64 | None = None
    csv_type: pa.DataType = TEXT
    key_bits = 64
    example: str
    needed: str
    needed_type: str

    @property
    @abc.abstractmethod
    def words(self) -> str:
        """What a value is; equal words are equal meanings."""

    @abc.abstractmethod
    def accepts(self, type: pa.DataType) -> bool:
        """Whether a column of a type of Arrow's can hold such values."""

    @abc.abstractmethod
    def keys(self, values: pa.Array, report: Report) -> np.ndarray:
        """The key of each value.

        Args:
            values: Arrow array `[values]`; null where a value is missing.
            report: Told what is wrong.

        Returns:
            uint64 `[values]`.
        """

    @abc.abstractmethod
    def graph_keys(self, values: tf.Tensor, missing: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The key of each value, in a graph of TensorFlow's own operations.

        Args:
            values: Of any shape: string, or of a type of numbers.
            missing: bool, of that shape.

        Returns:
            int64, the bits of the keys, and bool, whether a value is what is needed; both of that
            shape.

        Raises:
            DataError: If there is no such graph.
        """

    def text_of(self, key: np.uint64) -> bytes | None:
        """A text whose key this is; None where that cannot be told from a key."""
        del key
        return None

    def _or_blank(
        self, keys: tf.Tensor, fits: tf.Tensor, missing: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """What `graph_keys` returns, from the keys of the values that are not missing."""
        if self.blank is None:
            return keys, fits & ~missing
        return tf.where(missing, as_int64(self.blank), keys), fits | missing


def as_int64(key: np.uint64) -> np.int64:
    """The bits of a key as a signed number."""
    return np.asarray(key, np.uint64).view(np.int64)[()]


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


def is_whole(kind: pa.DataType) -> bool:
    """Whether a column holds whole numbers, or truths."""
    return bool(pa.types.is_integer(kind) or pa.types.is_boolean(kind))


def is_number(kind: pa.DataType) -> bool:
    """Whether a column holds numbers of any type."""
    return is_whole(kind) or bool(pa.types.is_floating(kind) or pa.types.is_decimal(kind))


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


def nulls(array: pa.Array) -> np.ndarray:
    """Which values are missing, bool `[values]`."""
    return np.asarray(array.is_null().to_numpy(zero_copy_only=False))


def fill_missing(
    array: pa.Array, values: np.ndarray, missing: float | None, needed: str, report: Report
) -> np.ndarray:
    """Writes `missing` where a value is; reports those instead where it is None."""
    if array.null_count:
        of_null = nulls(array)
        values[of_null] = 0 if missing is None else missing
        if missing is None:
            for index in np.flatnonzero(of_null):
                report(int(index), "missing value", f"is missing, where {needed} is needed")
    return values


def parse_each(
    array: pa.Array, parse: Callable[[Any], Any], dtype: Any, needed: str, report: Report
) -> np.ndarray:
    """Parses the distinct values one by one; None or an error means that one cannot be.

    Args:
        array: Arrow array `[values]`.
        parse: From a value to a number.
        dtype: Type of the numbers.
        needed: What is needed, for messages.
        report: Told what is wrong.

    Returns:
        `[values]`; 0 where null, or something was reported.
    """
    codes = array if pa.types.is_dictionary(array.type) else array.dictionary_encode()
    distinct = codes.dictionary.to_pylist()
    values: np.ndarray = np.zeros(len(distinct), dtype)
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


def shown(value: Any) -> str:
    """A value for a message, cut where it is long."""
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError:
            return f"{value[:40]!r} (not UTF-8)"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
