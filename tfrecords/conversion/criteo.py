"""Criteo's click logs, Kaggle and Terabyte: the description `criteo`, and the files of days."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from tfrecords.conversion import description_file
from tfrecords.conversion.column_description import CategoricalColumn
from tfrecords.conversion.formats import Parsed, Piece
from tfrecords.conversion.table_description import TableDescription
from tfrecords.conversion.tabular import TabularFormat
from tfrecords.errors import DataError

TERABYTE_DAYS = 24
_AS_ZERO = "as 0"
# What `dataset.json` calls the faults of rows.
_FAULTS = {"hexadecimal": "category"}


def described(
    max_index_range: int = 0, bucketize_dense: bool = False, reference: bool = False
) -> TableDescription:
    """The description of Criteo's logs.

    Args:
        max_index_range: Categories are taken modulo this; 0: not.
        bucketize_dense: Add the numbers as 13 further categorical columns.
        reference: Blank categories count as 0, as in the code of the DLRM paper.
    """
    table = description_file.load("criteo")
    columns = [
        dataclasses.replace(
            column, modulo=max_index_range or None, missing=0 if reference else None
        )
        for column in table.categorical
    ]
    if bucketize_dense:
        columns += [
            CategoricalColumn(f"{number.name}_bucket", number.column, kind="bucket")
            for number in table.dense
        ]
    return dataclasses.replace(table, categorical=tuple(columns))


def of_data_set(made: Mapping[str, Any]) -> TableDescription:
    """The description of a data set, of what `CriteoFormat.describe` said of it.

    Raises:
        KeyError: If that is something else.
    """
    if made["name"] not in ("kaggle", "terabyte"):
        raise KeyError(made["name"])
    return described(
        int(made["max_index_range"]),
        bool(made["bucketize_dense"]),
        made["blank_categories"] == _AS_ZERO,
    )


class CriteoFormat(TabularFormat):
    """Lines of a label, 13 whole numbers and 26 hexadecimal categories, separated by tabs.

    Args:
        name: "kaggle" or "terabyte"; their lines are of one kind.
        max_index_range: See `described`.
        bucketize_dense: See `described`.
        reference: See `described`.
        piece_bytes: About how many bytes of text are parsed at once; None for the default.

    Raises:
        DataError: If a value is not allowed or two contradict each other.
    """

    def __init__(
        self,
        name: str = "kaggle",
        max_index_range: int = 0,
        bucketize_dense: bool = False,
        reference: bool = False,
        piece_bytes: int | None = None,
    ) -> None:
        if max_index_range < 0:
            raise DataError(
                f"--max_index_range must be at least 1, or 0 for none, not {max_index_range}."
            )
        if reference and bucketize_dense:
            raise DataError(
                "--reference keeps the 13 integers as numbers only, so --bucketize_dense "
                "contradicts it; leave one of them out."
            )
        table = described(max_index_range, bucketize_dense, reference)
        super().__init__(table, name, piece_bytes)
        self._described = {
            "name": name,
            "max_index_range": max_index_range,
            "bucketize_dense": bucketize_dense,
            "dense": "log(1 + max(x, 0)), 0 where blank",
            "blank_categories": _AS_ZERO if reference else "a value of their own",
        }

    def describe(self) -> dict[str, Any]:
        """Name and options; see `InputFormat.describe`."""
        return self._described

    def parse(self, piece: Piece) -> Parsed:
        """Parses a piece; see `InputFormat.parse`."""
        parsed = super().parse(piece)
        bad = [dataclasses.replace(row, kind=_FAULTS.get(row.kind, row.kind)) for row in parsed.bad]
        return dataclasses.replace(parsed, bad=bad)


def day_files(
    inputs: list[str],
    days: str,
    is_folder: Callable[[str], bool] = os.path.isdir,
    is_file: Callable[[str], bool] = os.path.isfile,
) -> list[str]:
    """The files of the Terabyte log in the order of time.

    Args:
        inputs: One folder with `day_0` to `day_23`, plain or `.gz`; or the files themselves, which
            are taken as they are.
        days: Which days of the folder, for example "0-6,23"; empty for all there are.
        is_folder: Whether a path is a folder.
        is_file: Whether it is a file.

    Raises:
        DataError: If a day is missing or none is there.
    """
    if len(inputs) != 1 or not is_folder(inputs[0]):
        if days:
            raise DataError(
                f"--days={days} chooses among the files of one folder; --input names files, so "
                "leave --days out."
            )
        return inputs
    folder = inputs[0]
    there: dict[int, str] = {}
    for day in range(TERABYTE_DAYS):
        for end in (".gz", ""):  # plain text goes first where both are there
            path = os.path.join(folder, f"day_{day}{end}")
            if is_file(path):
                there[day] = path
    if not days and not there:
        raise DataError(f"The folder {folder!r} holds none of day_0 to day_23, plain or .gz.")
    wanted = parse_days(days) if days else range(min(there), max(there) + 1)
    for day in wanted:
        if day not in there and days:
            raise DataError(
                f"The folder {folder!r} holds neither day_{day} nor day_{day}.gz, which "
                f"--days={days} asks for."
            )
        if day not in there:
            raise DataError(
                f"The folder {folder!r} holds day_{min(there)} to day_{max(there)} but not "
                f"day_{day}; fetch it, or name the days to use by --days."
            )
    return [there[day] for day in wanted]


def parse_days(text: str) -> list[int]:
    """Reads the value of `--days`: days and ranges of days, separated by commas, ascending.

    Raises:
        DataError: If it is none, or names a day twice.
    """
    days: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,2})(?:-([0-9]{1,2}))?\s*", part)
        first = int(match[1]) if match else -1
        last = int(match[2] or first) if match else -1
        if not 0 <= first <= last < TERABYTE_DAYS or (days and first <= days[-1]):
            raise DataError(
                "--days must be days from 0 to 23 and ranges of them such as 0-6,23, ascending, "
                f"not {text!r}."
            )
        days.extend(range(first, last + 1))
    return days
