"""The table of text that a data set was made of, for who serves a model."""

from __future__ import annotations

from typing import Any

from tfrecords.conversion.how_it_was_made import table_of
from tfrecords.conversion.table_description import TableDescription
from tfrecords.errors import DataError


def text_table_of(how_it_was_made: Any) -> TableDescription:
    """The table of which a data set was made, whose features text can say.

    Args:
        how_it_was_made: What `dataset.json` says of it.

    Raises:
        DataError: If it was made of something else than text of which that is known, or of more
            than the text says.
    """
    try:
        made, options = how_it_was_made["format"], how_it_was_made["options"]
        drawn = [ids for ids in options.get("multi_hot") or () if ids > 1]
        table = table_of(made)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            "It does not say of which text it was made: it was not converted by "
            "tfrecords.convert or tfrecords.convert_criteo."
        ) from error
    for column in table.categorical:
        if column.many and column.separator is None:
            raise DataError(
                f"The column {column.column!r} holds lists of Parquet, which are no text; describe "
                "it with a separator and convert again."
            )
    if drawn:
        raise DataError(
            "It was converted with --multi_hot, so rows have further ids that no text holds."
        )
    return table
