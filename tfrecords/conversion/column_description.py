"""What stands in a column of a table, and what to make of it."""

from __future__ import annotations

import dataclasses
import functools
import math

from tfrecords.conversion.description_checks import (
    check_choice,
    check_count,
    check_name,
    check_separator,
    check_truth,
    either,
    fits,
    is_whole,
    set_number,
    set_texts,
)
from tfrecords.errors import DataError
from tfrecords.kinds import KINDS, Kind
from tfrecords.kinds.date_part import ISO, PARTS, UNIX
from tfrecords.kinds.label import Label
from tfrecords.kinds.number import QUANTILES, STANDARDISE, TRANSFORMS, Number
from tfrecords.kinds.whole import Whole

_MOST_BUCKETS = 1000


@dataclasses.dataclass(frozen=True)
class LabelColumn:
    """The label.

    Without any of the options the column holds numbers in [0, 1].

    Attributes:
        column: Name of the column.
        positive_from: The column holds numbers, and the label is 1 where they are at least this.
        positive_values: The column holds text, and the label is 1 where it is one of these.
        negative_values: The texts whose label is 0; none given: all that are not positive.
        whole: Whether the numbers are 0 or 1 with nothing around them.

    Raises:
        DataError: If a value is not allowed or two contradict each other.
    """

    column: str
    positive_from: float | None = None
    positive_values: tuple[str, ...] = ()
    negative_values: tuple[str, ...] = ()
    whole: bool = False

    def __post_init__(self) -> None:
        check_name("[label] column", self.column)
        if self.column == "dense":
            raise DataError(
                "[label] column cannot be 'dense', which is the key of the matrix of all dense "
                "columns; rename the column."
            )
        set_number(self, "positive_from", "[label] positive_from")
        for name in ("positive_values", "negative_values"):
            set_texts(self, name, f"[label] {name}")
        if self.positive_from is not None and (self.positive_values or self.negative_values):
            raise DataError(
                "[label] positive_from is for numbers and positive_values and negative_values are "
                "for text; leave one of them out."
            )
        if self.negative_values and not self.positive_values:
            raise DataError("[label] negative_values needs positive_values as well.")
        check_truth("[label] whole", self.whole)
        if self.whole and (self.positive_from is not None or self.positive_values):
            raise DataError(
                "[label] whole is for numbers that are the label as they stand; leave the other "
                "options out."
            )
        both = set(self.positive_values) & set(self.negative_values)
        if both:
            raise DataError(
                f"[label] {min(both)!r} is one of positive_values and one of negative_values; it "
                "can be one of them only."
            )

    @property
    def meaning(self) -> Label:
        """What its values mean."""
        return Label(self.positive_from, self.positive_values, self.negative_values, self.whole)


@dataclasses.dataclass(frozen=True)
class DenseColumn:
    """A numeric feature.

    Attributes:
        name: Name of the feature.
        column: Name of the column of the table.
        transform: `none`; `log1p`: `log(1 + max(x, 0))`; `standardise`: mean 0 and standard
            deviation 1; or `quantiles`: the number of the bucket, from 0 to 1, of `buckets` buckets
            of equally many rows.
        missing: The number (before all else) that stands for a missing one; None: a row without it
            is a bad row.
        whole: Whether only whole numbers of 32 bits with nothing around them are allowed.
        low: Smaller numbers become this one, before the transform; None: they stay.
        high: Larger numbers become this one, likewise.
        buckets: Number of buckets of `quantiles`.
        mean: Of `standardise`. None: a conversion learns it from its training rows, and
            `dataset.json` holds the description with it; so for the other two.
        deviation: Of `standardise`.
        boundaries: Of `quantiles`: the lowest numbers of the buckets but the first.

    Raises:
        DataError: If a value is not allowed or two contradict each other.
    """

    name: str
    column: str
    transform: str = "none"
    missing: float | None = None
    whole: bool = False
    low: float | None = None
    high: float | None = None
    buckets: int | None = None
    mean: float | None = None
    deviation: float | None = None
    boundaries: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_name("A name in [dense]", self.name)
        where = f"[dense.{self.name}]"
        check_name(f"{where} column", self.column)
        check_choice(f"{where} transform", self.transform, TRANSFORMS)
        check_truth(f"{where} whole", self.whole)
        for name in ("missing", "low", "high", "mean", "deviation"):
            set_number(self, name, f"{where} {name}")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise DataError(f"{where} low must be below high = {self.high!r}, not {self.low!r}.")
        check_count(f"{where} buckets", self.buckets)
        if self.buckets is not None and not 2 <= self.buckets <= _MOST_BUCKETS:
            raise DataError(
                f"{where} buckets must be from 2 to {_MOST_BUCKETS}, not {self.buckets}."
            )
        self._check_constants(where)

    def _check_constants(self, where: str) -> None:
        found = self.boundaries if isinstance(self.boundaries, (list, tuple)) else ("",)
        ascending = all(isinstance(value, float) or fits(value) for value in found)
        if not ascending or list(found) != sorted(set(found)) or not all(map(math.isfinite, found)):
            raise DataError(
                f"{where} boundaries must be a list of ascending numbers, not {self.boundaries!r}."
            )
        object.__setattr__(self, "boundaries", tuple(map(float, found)))
        if (self.mean is None) != (self.deviation is None) or not (
            self.deviation is None or self.deviation > 0
        ):
            raise DataError(f"{where} mean and deviation go together; deviation must be above 0.")
        if (self.buckets is None) != (self.transform != QUANTILES):
            raise DataError(
                f"{where} transform = '{QUANTILES}' and buckets = a number go together."
            )
        if self.boundaries and self.transform != QUANTILES:
            raise DataError(f"{where} boundaries are for transform = '{QUANTILES}'.")
        if self.mean is not None and self.transform != STANDARDISE:
            raise DataError(f"{where} mean and deviation are for transform = '{STANDARDISE}'.")

    @property
    def meaning(self) -> Number:
        """What its values mean."""
        return (Whole if self.whole else Number)(
            self.transform,
            self.missing,
            self.low,
            self.high,
            self.mean,
            self.deviation,
            self.boundaries,
        )


@dataclasses.dataclass(frozen=True)
class CategoricalColumn:
    """A feature of one value per row, or of many.

    Values become ids by counting (a vocabulary), unless `vocabulary_size` says that they are ids
    already, `hash_buckets` asks for a hash, or `kind` is `datetime`.

    Attributes:
        name: Name of the feature.
        column: Name of the column of the table.
        kind: What a value is: `text`, `integer` (64 bits), `hexadecimal` (32 bits), `datetime`, or
            `bucket`: whole numbers x of 32 bits, floor(ln(x)^2) above 2, x itself else.
        min_count: Values of fewer rows share the out-of-vocabulary id; None: the run's
            `--min_count`.
        vocabulary_size: The values are whole numbers below this, and are the ids.
        hash_buckets: The id is TensorFlow's 64-bit fingerprint of the value's text modulo this, as
            `tf.strings.to_hash_bucket_fast` computes it.
        separator: What stands between the values of a row in text. A column of lists (Parquet)
            needs none.
        hotness: Values per row: 1, a number, or None for any number ("any" in the file).
        missing: The id that stands where a value is missing (for columns whose values are ids, and
            dates); None: a row without it is a bad row. For `hexadecimal` the number that stands
            there; None: a missing value is a value of its own. It is that elsewhere too, equal to
            the empty text where values are text.
        modulo: The numbers of `hexadecimal` are taken modulo this before they are counted.
        longer: What to do with rows of more than `hotness` values: `error` (a bad row), or `cut`:
            the first are kept. Rows of fewer are filled up with missing values.
        datetime_format: How a date is written: as Python's `strptime` says it, `iso` (also for
            Parquet's own dates and times), or `unix` (seconds since 1970).
        part: The part of the date that is the id, one of `PARTS`. Dates with an offset or a zone,
            and those of `unix`, are taken as UTC shows them: 23:30+02:00 has the hour 21. Dates
            without one are taken as they are written, which is the way to the hour of the user's
            own clock.

    Raises:
        DataError: If a value is not allowed or two contradict each other.
    """

    name: str
    column: str
    kind: str = "text"
    min_count: int | None = None
    vocabulary_size: int | None = None
    hash_buckets: int | None = None
    separator: str | None = None
    hotness: int | None = 1
    missing: int | None = None
    longer: str = "error"
    datetime_format: str | None = None
    part: str | None = None
    modulo: int | None = None

    def __post_init__(self) -> None:
        check_name("A name in [categorical]", self.name)
        where = f"[categorical.{self.name}]"
        if "/" in self.name or self.name.startswith("."):
            raise DataError(
                f"{where} cannot have this name, since files are named after features; name it "
                f"otherwise and say column = {self.column!r}."
            )
        if self.name == "dense":
            raise DataError(
                f"{where} cannot have this name, which is the key of the matrix of all dense "
                "columns; name it otherwise and say column = 'dense'."
            )
        check_name(f"{where} column", self.column)
        check_choice(f"{where} kind", self.kind, tuple(KINDS))
        for name in ("min_count", "vocabulary_size", "hash_buckets", "hotness", "modulo"):
            check_count(f"{where} {name}", getattr(self, name))
        check_choice(f"{where} longer", self.longer, ("error", "cut"))
        check_separator(f"{where} separator", self.separator)
        self._check_datetime(where)
        self._check_ids(where)
        if self.longer == "cut" and (self.hotness is None or not self.many):
            raise DataError(
                f"{where} longer = 'cut' needs hotness = a number, of the values that are kept."
            )

    @functools.cached_property
    def meaning(self) -> Kind:
        """What its values mean."""
        kind = KINDS[self.kind]
        return kind(**{name: getattr(self, name) for name in kind.options})

    @property
    def many(self) -> bool:
        """Whether a row of the table holds a list of values."""
        return self.separator is not None or self.hotness != 1

    @property
    def ids(self) -> int | None:
        """Number of ids where the values are ids below it already; None where they are counted."""
        return PARTS[self.part] if self.part is not None else self.vocabulary_size

    def _check_option(self, where: str, name: str) -> None:
        if getattr(self, name) is not None and name not in KINDS[self.kind].options:
            known = tuple(word for word, kind in KINDS.items() if name in kind.options)
            raise DataError(f"{where} {name} is for kind = {either(known)}, not {self.kind!r}.")

    def _check_datetime(self, where: str) -> None:
        for name in ("datetime_format", "part"):
            self._check_option(where, name)
        if self.kind != "datetime":
            return
        check_choice(f"{where} part", self.part, tuple(PARTS))
        if not isinstance(self.datetime_format, str) or not self.datetime_format:
            raise DataError(
                f"{where} datetime_format must say how the date is written, such as '%y%m%d%H', "
                f"'{ISO}' or '{UNIX}', not {self.datetime_format!r}."
            )
        if self.datetime_format not in (ISO, UNIX) and "%" not in self.datetime_format:
            raise DataError(
                f"{where} datetime_format must be '{ISO}', '{UNIX}', or hold directives such as "
                f"%Y, not {self.datetime_format!r}."
            )
        if self.many:
            raise DataError(f"{where} kind = 'datetime' is for columns of one value per row.")

    def _check_ids(self, where: str) -> None:
        ways = [
            text
            for text, given in (
                ("vocabulary_size", self.vocabulary_size is not None),
                ("hash_buckets", self.hash_buckets is not None),
                ("kind = 'datetime'", self.kind == "datetime"),
                ("min_count", self.min_count is not None),
            )
            if given
        ]
        if len(ways) > 1:
            raise DataError(f"{where} {ways[0]} and {ways[1]} contradict each other; choose one.")
        for name in ("vocabulary_size", "hash_buckets", "modulo"):
            self._check_option(where, name)
        if self.missing is None:
            return
        most = 1 << 32 if self.kind == "hexadecimal" else self.ids
        if most is None:
            raise DataError(
                f"{where} missing is an id, for columns with vocabulary_size and dates, or a "
                "hexadecimal number; in other columns a missing value is a value of its own."
            )
        if self.hotness is None:
            raise DataError(
                f"{where} missing has no use with hotness = 'any': a row without values is a row "
                "of none."
            )
        if not is_whole(self.missing) or not 0 <= self.missing < most:
            raise DataError(f"{where} missing must be an id in [0, {most}), not {self.missing!r}.")
