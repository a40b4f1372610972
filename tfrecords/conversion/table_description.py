"""What stands in the columns of a table (CSV, TSV, Parquet, Arrow), and what to make of it."""

from __future__ import annotations

import collections
import dataclasses

from tfrecords.conversion.column_description import CategoricalColumn, DenseColumn, LabelColumn
from tfrecords.conversion.description_checks import check_choice, check_name, check_truth, set_texts
from tfrecords.errors import DataError

FORMATS = ("csv", "tsv", "parquet", "arrow")
_KEPT = ("time", "group")


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
        check_choice("format", self.format, FORMATS)
        check_choice("other_columns", self.other_columns, ("error", "ignore"))
        for name in ("columns", "null_values", "ignore"):
            set_texts(self, name, name)
        for name in ("dense", "categorical"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in _KEPT:
            if getattr(self, name) is not None:
                check_name(name, getattr(self, name))
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
        check_truth("quoting", self.quoting)
        check_truth("strip", self.strip)
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
