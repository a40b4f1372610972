"""What stands in the columns of a table (CSV, TSV, Parquet, Arrow), and what to make of it."""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
from typing import Any, TypeGuard

from tfrecords.errors import DataError
from tfrecords.kinds import KINDS, Kind
from tfrecords.kinds.date_part import ISO, PARTS, UNIX
from tfrecords.kinds.label import Label
from tfrecords.kinds.number import QUANTILES, STANDARDISE, TRANSFORMS, Number
from tfrecords.kinds.whole import Whole

FORMATS = ("csv", "tsv", "parquet", "arrow")
_KEPT = ("time", "group")
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
        _check_name("[label] column", self.column)
        if self.column == "dense":
            raise DataError(
                "[label] column cannot be 'dense', which is the key of the matrix of all dense "
                "columns; rename the column."
            )
        _set_number(self, "positive_from", "[label] positive_from")
        for name in ("positive_values", "negative_values"):
            _set_texts(self, name, f"[label] {name}")
        if self.positive_from is not None and (self.positive_values or self.negative_values):
            raise DataError(
                "[label] positive_from is for numbers and positive_values and negative_values are "
                "for text; leave one of them out."
            )
        if self.negative_values and not self.positive_values:
            raise DataError("[label] negative_values needs positive_values as well.")
        _check_truth("[label] whole", self.whole)
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
        _check_name("A name in [dense]", self.name)
        where = f"[dense.{self.name}]"
        _check_name(f"{where} column", self.column)
        _check_choice(f"{where} transform", self.transform, TRANSFORMS)
        _check_truth(f"{where} whole", self.whole)
        for name in ("missing", "low", "high", "mean", "deviation"):
            _set_number(self, name, f"{where} {name}")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise DataError(f"{where} low must be below high = {self.high!r}, not {self.low!r}.")
        _check_count(f"{where} buckets", self.buckets)
        if self.buckets is not None and not 2 <= self.buckets <= _MOST_BUCKETS:
            raise DataError(
                f"{where} buckets must be from 2 to {_MOST_BUCKETS}, not {self.buckets}."
            )
        self._check_constants(where)

    def _check_constants(self, where: str) -> None:
        found = self.boundaries if isinstance(self.boundaries, (list, tuple)) else ("",)
        ascending = all(isinstance(value, float) or _fits(value) for value in found)
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
        _check_name("A name in [categorical]", self.name)
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
        _check_name(f"{where} column", self.column)
        _check_choice(f"{where} kind", self.kind, tuple(KINDS))
        for name in ("min_count", "vocabulary_size", "hash_buckets", "hotness", "modulo"):
            _check_count(f"{where} {name}", getattr(self, name))
        _check_choice(f"{where} longer", self.longer, ("error", "cut"))
        _check_separator(f"{where} separator", self.separator)
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
            raise DataError(f"{where} {name} is for kind = {_either(known)}, not {self.kind!r}.")

    def _check_datetime(self, where: str) -> None:
        for name in ("datetime_format", "part"):
            self._check_option(where, name)
        if self.kind != "datetime":
            return
        _check_choice(f"{where} part", self.part, tuple(PARTS))
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
        if not _is_whole(self.missing) or not 0 <= self.missing < most:
            raise DataError(f"{where} missing must be an id in [0, {most}), not {self.missing!r}.")


@dataclasses.dataclass(frozen=True)
class TableDescription:
    """A table: how its file is written, and what each of its columns is.

    Attributes:
        format: `csv`, `tsv`, `parquet`, or `arrow`: Arrow's own format, also called Feather or IPC.
        label: The label.
        dense: The numeric features, in order.
        categorical: The other features, in order.
        time: The column, a number or a date in ISO's form, that `--split=time:` looks at; None for
            none.
        group: The column, such as a user or a request, of the rows that belong together, for
            `--split=group:`; None for none.
        columns: The names of all columns, in order, of a text file without a header line.
        delimiter: What stands between fields of text: an ASCII character, or several, as the "::"
            of MovieLens, then without quoting. Default: a comma; a tab for `tsv`.
        quoting: Whether fields of text may stand in double quotes, a double quote within them
            written twice. Line breaks within quotes are not supported. Default: yes for `csv` with
            a delimiter of one character.
        strip: Whether blanks around fields of text (outside quotes) are none of theirs.
        null_values: The texts that mean that a value is missing.
        ignore: Names of columns that are not used.
        other_columns: What to do with columns that are not named anywhere: `error` or `ignore`.

    Raises:
        DataError: If a value is not allowed or two contradict each other.
    """

    format: str
    label: LabelColumn
    dense: tuple[DenseColumn, ...] = ()
    categorical: tuple[CategoricalColumn, ...] = ()
    time: str | None = None
    group: str | None = None
    columns: tuple[str, ...] = ()
    delimiter: str | None = None
    quoting: bool | None = None
    strip: bool = False
    null_values: tuple[str, ...] = ("",)
    ignore: tuple[str, ...] = ()
    other_columns: str = "error"

    def __post_init__(self) -> None:
        _check_choice("format", self.format, FORMATS)
        _check_choice("other_columns", self.other_columns, ("error", "ignore"))
        for name in ("columns", "null_values", "ignore"):
            _set_texts(self, name, name)
        for name in ("dense", "categorical"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in _KEPT:
            if getattr(self, name) is not None:
                _check_name(name, getattr(self, name))
        self._check_text()
        self._check_columns()
        if not self.dense and not self.categorical:
            raise DataError("[dense] and [categorical] are both empty; name at least one feature.")
        seen = {self.label.column: "[label]"}
        for part, columns in (("[dense]", self.dense), ("[categorical]", self.categorical)):
            for column in columns:
                if column.name in seen:
                    raise DataError(
                        f"The feature {column.name!r} of {part} is named in {seen[column.name]} as "
                        "well; give it another name and say the column of the table with column = "
                        f"{column.column!r}."
                    )
                seen[column.name] = part

    @property
    def of_text(self) -> bool:
        """Whether the files are lines of text."""
        return self.format in ("csv", "tsv")

    @property
    def numbers(self) -> tuple[LabelColumn | DenseColumn, ...]:
        """The columns of one number a row: the label and the numeric features."""
        return (self.label, *self.dense)

    @property
    def used(self) -> tuple[str, ...]:
        """The columns of the table that are used, each once, the label's first."""
        every = (self.label.column, *self.feature_columns, *self.kept.values())
        return tuple(dict.fromkeys(every))

    @property
    def feature_columns(self) -> tuple[str, ...]:
        """The columns of the table that are features, each once."""
        columns = (*(c.column for c in self.dense), *(c.column for c in self.categorical))
        return tuple(dict.fromkeys(columns))

    @property
    def kept(self) -> dict[str, str]:
        """What else is kept of each row: the column of the table, by name."""
        columns = {name: getattr(self, name) for name in _KEPT}
        return {name: column for name, column in columns.items() if column is not None}

    def _check_text(self) -> None:
        if not self.of_text:
            for name in ("columns", "delimiter", "quoting", "strip"):
                if getattr(self, name) not in (None, (), False):
                    raise DataError(
                        f"{name} is for text; a file of {self.format!r} says itself what it is."
                    )
            return
        default = "\t" if self.format == "tsv" else ","
        if self.delimiter is None:
            object.__setattr__(self, "delimiter", default)
        if self.quoting is None:
            one = len(str(self.delimiter)) == 1
            object.__setattr__(self, "quoting", self.format == "csv" and one)
        _check_truth("quoting", self.quoting)
        _check_truth("strip", self.strip)
        delimiter = self.delimiter
        if not isinstance(delimiter, str) or not delimiter or not delimiter.isascii():
            raise DataError(f"delimiter must be one or more ASCII characters, not {delimiter!r}.")
        if set(delimiter) & set('\r\n\0"'):
            raise DataError(f"delimiter cannot be {delimiter!r}.")
        if len(delimiter) > 1 and self.quoting:
            raise DataError(f"quoting needs a delimiter of one character, not {delimiter!r}.")
        if self.strip and delimiter == " ":
            raise DataError("strip takes blanks away, so delimiter cannot be one.")
        if self.format == "tsv" and delimiter != "\t":
            raise DataError(
                f"format = 'tsv' means tabs, so delimiter = {delimiter!r} contradicts it; use "
                "format = 'csv'."
            )
        for column in self.categorical:
            if column.hotness != 1 and column.separator is None:
                raise DataError(
                    f"[categorical.{column.name}] hotness needs separator = the text between the "
                    "values of a row, such as '|'."
                )
            if column.separator == delimiter and not self.quoting:
                raise DataError(
                    f"[categorical.{column.name}] separator is {delimiter!r}, which is the "
                    "delimiter between columns."
                )

    def _check_columns(self) -> None:
        twice = {name for name, count in collections.Counter(self.columns).items() if count > 1}
        if twice:
            raise DataError(f"columns names {min(twice)!r} twice.")
        for name in self.ignore:
            if name in self.used:
                raise DataError(f"ignore names {name!r}, which is used as a label or feature.")
        if not self.columns:
            return
        named = set(self.used) | set(self.ignore)
        for name in (*self.used, *self.ignore):
            if name not in self.columns:
                raise DataError(f"columns does not name {name!r}, which is used elsewhere.")
        for name in self.columns:
            if name not in named and self.other_columns == "error":
                raise DataError(
                    f"columns names {name!r}, which is no label and no feature; name it in ignore, "
                    "or say other_columns = 'ignore'."
                )


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _fits(value: object) -> bool:
    return _is_whole(value) and abs(int(value)) <= 2**53


def _check_name(what: str, value: object) -> None:
    if not isinstance(value, str) or not value:
        raise DataError(f"{what} must be the name of a column, not {value!r}.")
    if any(character in value for character in "\r\n\0"):
        raise DataError(f"{what} must be text of one line, not {value!r}.")


def _check_choice(what: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise DataError(f"{what} must be {_either(allowed)}, not {value!r}.")


def _either(allowed: tuple[str, ...]) -> str:
    quoted = [repr(value) for value in allowed]
    return " or ".join(part for part in (", ".join(quoted[:-1]), quoted[-1]) if part)


def _check_count(what: str, value: object) -> None:
    if value is not None and not (_is_whole(value) and 1 <= int(value) < 2**62):
        raise DataError(f"{what} must be a whole number of at least 1, not {value!r}.")


def _check_truth(what: str, value: object) -> None:
    if not isinstance(value, bool):
        raise DataError(f"{what} must be true or false, not {value!r}.")


def _check_separator(what: str, value: object) -> None:
    if value is None:
        return
    if not isinstance(value, str) or not value or any(c in value for c in "\r\n\0"):
        raise DataError(f"{what} must be the text between two values, such as '|', not {value!r}.")


def _set_number(owner: Any, name: str, what: str) -> None:
    value = getattr(owner, name)
    if value is None:
        return
    number = float(value) if isinstance(value, float) or _fits(value) else math.nan
    if not math.isfinite(number):
        raise DataError(f"{what} must be a number, not {value!r}.")
    object.__setattr__(owner, name, number)


def _set_texts(owner: Any, name: str, what: str) -> None:
    values = getattr(owner, name)
    if not isinstance(values, (list, tuple)) or not all(isinstance(v, str) for v in values):
        raise DataError(f"{what} must be a list of texts, not {values!r}.")
    object.__setattr__(owner, name, tuple(values))
