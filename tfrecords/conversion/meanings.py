"""What the values of a data set mean, in words: equal words are equal meanings.

Two conversions of one table by different descriptions can have the same columns, of the same sizes;
a model of the one sees nonsense in the other. Which files, rows and splits there are, and how rows
are shuffled, has no part in the meaning.
"""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import Mapping
from typing import Any

from tfrecords.conversion.column_description import CategoricalColumn, DenseColumn
from tfrecords.conversion.how_it_was_made import table_of
from tfrecords.conversion.table_description import TableDescription
from tfrecords.errors import DataError
from tfrecords.kinds.date_part import ISO, UNIX
from tfrecords.kinds.label import either, short

LABEL = "The label"
_DATE_PARTS = {
    "hour_of_day": lambda date: date.hour,
    "weekday": lambda date: date.weekday(),
    "day_of_month": lambda date: date.day,
    "month": lambda date: date.month,
}


@dataclasses.dataclass(frozen=True)
class Meaning:
    """What the values of a column mean.

    Attributes:
        words: What a value is; as the rest of a sentence, "Feature price is ...".
        column: The column of the table that it is made of; empty where nothing says it.
        written: How the file writes it, where it may be written in many ways: the format of dates,
            or what stands between the values of a row.
        part: The part of a date that it is, or empty.

    Raises:
        DataError: If one of them is no text.
    """

    words: str
    column: str = ""
    written: str = ""
    part: str = ""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, str):
                raise DataError(f"The {field.name} of a meaning must be a text, not {value!r}.")

    def contradicts(self, other: Meaning) -> bool:
        """Whether a value that both can read is not the same to both."""
        if self.words != other.words:
            return True
        return bool(self.part) and (
            _reads_otherwise(self.written, other.written, self.part)
            or _reads_otherwise(other.written, self.written, self.part)
        )


def feature(name: str) -> str:
    """What `of_data_set` and `of_table` call a feature."""
    return f"Feature {name}"


def of_data_set(how_it_was_made: Any) -> dict[str, Meaning]:
    """What the values of a data set mean, by `LABEL` or `feature`.

    Args:
        how_it_was_made: What `dataset.json` says of it.

    Returns:
        Nothing where it does not say it, as of random data.
    """
    # Foreign files may hold anything here; what is not understood says nothing.
    try:
        if how_it_was_made.get("source") == "tfrecords.leave_one_out":
            return _of_interactions(how_it_was_made)
        made, options = how_it_was_made["format"], how_it_was_made["options"]
        table = table_of(made)
        names = [column.name for column in table.categorical]
        return _with_further_ids(of_table(table), names, options)
    except (AttributeError, LookupError, TypeError, ValueError, DataError):
        return {}


def of_table(table: TableDescription) -> dict[str, Meaning]:
    """What the values of a table mean, by `LABEL` or `feature`."""
    found = {LABEL: Meaning(table.label.meaning.words, table.label.column)}
    for dense in table.dense:
        found[feature(dense.name)] = Meaning(_dense(dense, table.null_values), dense.column)
    for column in table.categorical:
        found[feature(column.name)] = Meaning(
            _categorical(column, table.null_values),
            column.column,
            column.datetime_format or column.separator or "",
            column.part or "",
        )
    return found


def _of_interactions(made: Mapping[str, Any]) -> dict[str, Meaning]:
    from tfrecords.leave_one_out import ITEM, USER

    user, item, _ = made["columns"]
    return {
        LABEL: Meaning("1 where the user had the item, 0 where it was drawn"),
        feature(USER): Meaning("a counted integer value", user),
        feature(ITEM): Meaning("a counted integer value", item),
    }


def _with_further_ids(
    found: dict[str, Meaning], names: list[str], options: Mapping[str, Any]
) -> dict[str, Meaning]:
    """Adds what `--multi_hot` made of columns of one id: it depends on the seed."""
    found = dict(found)
    for place, (name, ids) in enumerate(zip(names, options.get("multi_hot") or (), strict=False)):
        if ids > 1:
            before = found[feature(name)]
            drawn = (
                f", with further ids drawn by --seed={int(options['seed'])}, "
                f"--multi_hot_distribution={options['multi_hot_distribution']} and the place "
                f"{place} of the column"
            )
            found[feature(name)] = dataclasses.replace(before, words=before.words + drawn)
    return found


def _dense(column: DenseColumn, null_values: tuple[str, ...]) -> str:
    words, missing = column.meaning.words, column.meaning.missing
    return words if missing is None else f"{words}, {short(missing)} {_where(null_values)}"


def _categorical(column: CategoricalColumn, null_values: tuple[str, ...]) -> str:
    words = column.meaning.words
    if column.ids is not None:
        if column.missing is None:
            return words
        return f"{words}, {column.missing} {_where(null_values)}"
    # A missing value is one of its own, whatever it is called but for the empty text.
    named = tuple(set(null_values) - {""})
    return f"{words}, missing where the file says {either(named)}" if named else words


def _where(null_values: tuple[str, ...]) -> str:
    named = tuple(set(null_values) - {""})
    return f"where missing (or {either(named)})" if named else "where missing"


def _reads_otherwise(written: str, how: str, part: str) -> bool:
    """Whether a date that one format has written is another one's, but another date.

    Only of formats with directives: what they write is often no date at all to the other, and then
    they are two ways to write the same.
    """
    if written == how or {written, how} & {ISO, UNIX} or not (written and how):
        return False
    of = _DATE_PARTS.get(part)
    if of is None:
        return False
    first = datetime.datetime(2023, 1, 1)
    for hours in range(0, 24 * 366, 37):  # so that hours, days and months vary
        date = first + datetime.timedelta(hours=hours)
        try:
            text = date.strftime(written)
            if of(datetime.datetime.strptime(text, how)) != of(
                datetime.datetime.strptime(text, written)
            ):
                return True
        except (ValueError, re.error):  # the latter of a directive that comes twice
            continue
    return False
