"""The fields of a table as text, and what a data set made of them: for who serves a model."""

from __future__ import annotations

import dataclasses
from typing import Any

from tfrecords.conversion.how_it_was_made import table_of
from tfrecords.conversion.table_description import TableDescription
from tfrecords.errors import DataError
from tfrecords.kinds import Kind
from tfrecords.kinds.number import Number


@dataclasses.dataclass(frozen=True)
class RawFeature:
    """A categorical feature, as text.

    Attributes:
        name: Name of the feature.
        column: The column of the table.
        kind: What a value is.
        separator: What stands between the values of a field; None: a field is one value.
        hotness: Values that a row has in the end; None: as many as its field has.
        cut: Whether a field of more values than `hotness` is cut; else it is a bad one.
    """

    name: str
    column: str
    kind: Kind
    separator: str | None = None
    hotness: int | None = 1
    cut: bool = False


@dataclasses.dataclass(frozen=True)
class RawFields:
    """All features of a data set, as text.

    Attributes:
        dense: For each dense feature, the column of the table and what a number is.
        categorical: The other features.
        null_values: The texts that mean that a value is missing.
    """

    dense: tuple[tuple[str, Number], ...]
    categorical: tuple[RawFeature, ...]
    null_values: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the table that are features, each once."""
        every = (*(column for column, _ in self.dense), *(f.column for f in self.categorical))
        return tuple(dict.fromkeys(every))


def of_data_set(how_it_was_made: Any) -> RawFields:
    """The fields of which a data set was made.

    Args:
        how_it_was_made: What `dataset.json` says of it.

    Raises:
        DataError: If it was made of something else than text of which that is known, or of more
            than the text says.
    """
    try:
        made, options = how_it_was_made["format"], how_it_was_made["options"]
        drawn = [ids for ids in options.get("multi_hot") or () if ids > 1]
        found = _of_table(table_of(made))
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            "It does not say of which text it was made: it was not converted by "
            "tfrecords.convert or tfrecords.convert_criteo."
        ) from error
    if drawn:
        raise DataError(
            "It was converted with --multi_hot, so rows have further ids that no text holds."
        )
    return found


def _of_table(table: TableDescription) -> RawFields:
    features = []
    for column in table.categorical:
        if column.many and column.separator is None:
            raise DataError(
                f"The column {column.column!r} holds lists of Parquet, which are no text; describe "
                "it with a separator and convert again."
            )
        features.append(
            RawFeature(
                column.name,
                column.column,
                column.meaning,
                column.separator,
                column.hotness,
                column.longer == "cut",
            )
        )
    dense = tuple((column.column, column.meaning) for column in table.dense)
    return RawFields(dense, tuple(features), table.null_values)
