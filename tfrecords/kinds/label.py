"""Labels, as numbers from 0 to 1."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from tfrecords.kinds.kind import TEXT, ByValue, Report, encoded, nulls, shown, spread
from tfrecords.kinds.number import AS_IT_STANDS, Number, numbers
from tfrecords.kinds.text import Text
from tfrecords.kinds.whole import CSV_TYPE, whole_numbers


class Label(ByValue):
    """A label: a number from 0 to 1; or 1 where a number is large enough; or 1 for some texts.

    Args:
        positive_from: The label is 1 where the number is at least this; None: it is the number.
        positive_values: The texts whose label is 1; none: the column holds numbers.
        negative_values: The texts whose label is 0; none: all others.
        whole: Whether the number is 0 or 1, with nothing around it.
    """

    def __init__(
        self,
        positive_from: float | None = None,
        positive_values: tuple[str, ...] = (),
        negative_values: tuple[str, ...] = (),
        whole: bool = False,
    ) -> None:
        self._positive_from = positive_from
        self._positive = positive_values
        self._negative = negative_values
        self._whole = whole

    @property
    def needed_type(self) -> str:
        """See `Kind.needed_type`."""
        return Text.needed_type if self._positive else Number.needed_type

    @property
    def csv_type(self) -> pa.DataType:
        """See `Kind.csv_type`."""
        if self._positive:
            return TEXT
        return CSV_TYPE if self._whole else pa.float64()

    def accepts(self, type: pa.DataType) -> bool:
        """See `Kind.accepts`."""
        return (Text() if self._positive else Number()).accepts(type)

    @property
    def words(self) -> str:
        """What a value is; equal words are equal meanings."""
        if self._positive_from is not None:
            return f"1 where the number is at least {short(self._positive_from)}, 0 else"
        if not self._positive:
            return AS_IT_STANDS
        negative = f"where the text is {either(self._negative)}" if self._negative else "else"
        return f"1 where the text is {either(self._positive)}, 0 {negative}"

    def read(self, array: pa.Array, report: Report) -> np.ndarray:
        """The labels, float32 `[values]`.

        Args:
            array: Arrow array `[values]`.
            report: Told what is wrong.
        """
        if self._positive:
            return self._of_text(array, report)
        if self._whole:
            return self._of_whole(array, report)
        found = numbers(array, None, lambda row, _, what: report(row, "label", what))
        if self._positive_from is not None:
            return (found >= self._positive_from).astype(np.float32)
        for row in np.flatnonzero((found < 0) | (found > 1)):
            report(int(row), "label", f"is {found[row]:g}, where a number from 0 to 1 is needed")
        return found.astype(np.float32)

    def _of_whole(self, array: pa.Array, report: Report) -> np.ndarray:
        found = whole_numbers(array, "0 or 1", lambda row, _, what: report(row, "label", what))
        for row in np.flatnonzero((found < 0) | (found > 1) | nulls(array)):
            value = array[int(row)].as_py()
            what = f"is {shown('' if value is None else value)}, where 0 or 1 is needed"
            report(int(row), "label", what)
        return found.astype(np.float32)

    def _of_text(self, array: pa.Array, report: Report) -> np.ndarray:
        codes = encoded(array)
        distinct = codes.dictionary.to_pylist()
        positive = {value.encode() for value in self._positive}
        negative = {value.encode() for value in self._negative}
        # 1, 0, or a half where it is neither.
        values = np.array([value in positive for value in distinct], np.float32)
        if negative:
            values[[value not in positive | negative for value in distinct]] = 0.5
        needed = " or ".join(shown(value) for value in (*self._positive, *self._negative))
        of_rows = spread(codes, values, 0.25)
        for row in np.flatnonzero((of_rows > 0) & (of_rows < 1)):
            value = codes[int(row)].as_py()
            what = "is missing" if value is None else f"is {shown(value)}"
            report(int(row), "label", f"{what}, where {needed} is needed")
        return of_rows


def either(texts: tuple[str, ...]) -> str:
    """Texts as a list for a sentence."""
    return " or ".join(repr(text) for text in sorted(set(texts)))


def short(number: float) -> str:
    """A number of all digits, and -0 as 0."""
    return repr(float(number) + 0.0).removesuffix(".0")
