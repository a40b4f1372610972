"""The constants of transforms that are learnt from the training rows: of dense columns."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import numpy as np

from tfrecords.conversion import description_file
from tfrecords.conversion.column_description import DenseColumn
from tfrecords.conversion.plan import Plan
from tfrecords.conversion.spool import Spool
from tfrecords.conversion.table_description import TableDescription
from tfrecords.dataset_info import DatasetInfo
from tfrecords.errors import DataError
from tfrecords.kinds.number import STANDARDISE, Number

_Format = TypeVar("_Format", bound=Any)

_BLOCK = 1 << 16
_CONSTANTS = ("mean", "deviation", "boundaries")


def to_learn(description: TableDescription) -> tuple[int, ...]:
    """The numbers of the dense columns whose constants are still to be learnt."""
    return tuple(k for k, column in enumerate(description.dense) if column.meaning.to_learn)


def described(format: Any) -> TableDescription | None:
    """The description of a format; None where it has none."""
    found: TableDescription | None = getattr(format, "description", None)
    return found


def of_data_set(description: TableDescription, folder: str) -> TableDescription:
    """A description with the constants that a data set was converted with.

    Args:
        description: The description.
        folder: The data set folder.

    Raises:
        DataError: If the data set has none for a column that needs them.
    """
    wanted = to_learn(description)
    if not wanted:
        return description
    dense = list(description.dense)
    known = {column.name: column for column in _described(folder)}
    for number in wanted:
        column = dense[number]
        found = known.get(column.name)
        if found is not None:
            constants = {name: getattr(found, name) for name in _CONSTANTS}
            dense[number] = dataclasses.replace(column, **constants)
        if found is None or dense[number] != dataclasses.replace(found, column=column.column):
            raise DataError(
                f"Feature {column.name} is transformed by {column.transform!r}, but the data set "
                f"{folder} has no column that is transformed alike, whose constants could be "
                "used; describe it alike."
            )
    return dataclasses.replace(description, dense=tuple(dense))


def format_of_data_set(format: _Format, folder: str) -> _Format:
    """As `of_data_set`, of a format."""
    description = described(format)
    if description is None or not to_learn(description):
        return format
    found: _Format = format.described_by(of_data_set(description, folder))
    return found


def _described(folder: str) -> tuple[DenseColumn, ...]:
    how: Any = DatasetInfo.load_description(folder).how_it_was_made
    try:
        return description_file.from_toml(how["format"]["description"], "the description").dense
    except (LookupError, TypeError, AttributeError, DataError):
        return ()  # made in another way


def learn(format: _Format, spool: Spool, plan: Plan) -> tuple[_Format, Mapping[int, Number]]:
    """Learns what is to be learnt from the training rows that are used.

    Args:
        format: What the files hold.
        spool: The rows; what has no constants yet is only clipped in it.
        plan: Which rows are for training.

    Returns:
        The format with the constants in its description, and what a value is of each dense column
        that got some, by its number.
    """
    description = described(format)
    if description is None or not (wanted := to_learn(description)):
        return format, {}
    train = plan.ranges[0]
    pieces = spool.between(train.start, train.end)
    rows = sum(plan.emitted(piece, train) for piece in pieces)
    # On disk, since memory need not have room for whole columns.
    path = f"{spool.path}-numbers"
    values: np.ndarray = np.memmap(path, np.float32, "w+", shape=(len(wanted), rows))
    start = 0
    for piece in pieces:
        of_piece = spool.read(piece)
        mask = plan.mask(piece, of_piece, train)
        part = of_piece.dense[list(wanted)]
        part = part if mask is None else part[:, mask]
        values[:, start : start + part.shape[1]] = part
        start += part.shape[1]
    dense = list(description.dense)
    for row, number in enumerate(wanted):
        dense[number] = _learnt(dense[number], values[row])
    del values
    os.unlink(path)
    learnt = dataclasses.replace(description, dense=tuple(dense))
    return format.described_by(learnt), {k: dense[k].meaning for k in wanted}


def _learnt(column: DenseColumn, values: np.ndarray) -> DenseColumn:
    rows = len(values)
    if column.transform == STANDARDISE:
        # Sums that are rounded once, so that they do not depend on how the rows were cut.
        mean = math.fsum(_each(values, 0.0, 1)) / rows
        deviation = math.sqrt(math.fsum(_each(values, mean, 2)) / rows)
        return dataclasses.replace(column, mean=mean, deviation=deviation or 1.0)
    places = [rows * bucket // (column.buckets or 2) for bucket in range(1, column.buckets or 2)]
    values.partition(places)
    boundaries = np.unique(values[places]).tolist()
    return dataclasses.replace(column, boundaries=tuple(boundaries))


def _each(values: np.ndarray, mean: float, power: int) -> Iterator[float]:
    for start in range(0, len(values), _BLOCK):
        yield from ((values[start : start + _BLOCK].astype(np.float64) - mean) ** power).tolist()
