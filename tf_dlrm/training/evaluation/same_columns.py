"""Whether a model and data mean the same by their columns: names, sizes, ids and values."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any, NamedTuple

from tf_dlrm.errors import UserError
from tf_dlrm.training.sources import (
    Source,
    first_values_checksum,
    meanings,
    vocabulary_checksums,
)
from tfrecords.conversion.meanings import Meaning
from tfrecords.schema import CategoricalColumn, Schema

_LOG = logging.getLogger(__name__)


class _Side(NamedTuple):
    """What a model remembers of its data, or data says of itself.

    Attributes:
        name: What a message calls it.
        schema: The columns.
        fingerprint: A text that differs where the examples differ.
        vocabularies: See `vocabulary_checksums`; empty where none is known.
        meanings: See `meanings`; empty where nothing is known.
    """

    name: str
    schema: Schema
    fingerprint: str
    vocabularies: dict[str, str]
    meanings: dict[str, Meaning]


def check_columns(run: dict[str, Any], source: Source) -> None:
    """Refuses data whose columns are not those that a model was trained on.

    Raises:
        UserError: If a column has another name or size, ids that stand for other values, or values
            that were made in another way.
    """
    checksums = vocabulary_checksums(source)
    data = _Side("the data", source.schema, source.fingerprint, checksums, meanings(source))
    _check(_side("the model", run), data)


def check_grown_columns(run: dict[str, Any], source: Source) -> None:
    """Refuses data whose columns are not those of a model, but for values behind the model's.

    Args:
        run: The description of the model's run (run.json).
        source: The data.

    Raises:
        UserError: As `check_columns`, of the values that the model knows.
    """
    model = _side("the model", run)
    sizes = {column.name: column.vocabulary_size for column in model.schema.categorical}
    checksums = vocabulary_checksums(source)
    columns = []
    for column in source.schema.categorical:
        size = sizes.get(column.name, column.vocabulary_size)
        if column.name in checksums and column.name in model.vocabularies:
            if size < column.vocabulary_size:
                column = dataclasses.replace(column, vocabulary_size=size)
                checksums[column.name] = first_values_checksum(source, column.name, size)
        columns.append(column)
    schema = dataclasses.replace(source.schema, categorical=tuple(columns))
    _check(model, _Side("the data", schema, source.fingerprint, checksums, meanings(source)))


def check_same_run(run: dict[str, Any], other: dict[str, Any], what: str) -> None:
    """Refuses a second model whose columns are not those of the first.

    Args:
        run: The description of the first one's run (run.json).
        other: That of the second one.
        what: What an error calls the second one.

    Raises:
        UserError: As `check_columns`.
    """
    _check(_side("the model", run), _side(what, other))


def _side(name: str, run: dict[str, Any]) -> _Side:
    remembered = {key: Meaning(**value) for key, value in run.get("meanings", {}).items()}
    return _Side(
        name,
        Schema.from_json(run["schema"]),
        run["data_fingerprint"],
        run.get("vocabularies", {}),
        remembered,
    )


def _check(model: _Side, other: _Side) -> None:
    _check_schemas(model.schema, other.schema, other.name)
    if model.fingerprint == other.fingerprint:
        return
    told = bool(model.meanings) and model.meanings.keys() == other.meanings.keys()
    if told:
        _check_meanings(model.meanings, other.meanings, other.name)
    else:
        _warn("its values mean", model.meanings, other, "says nothing of how values were made")
    if model.vocabularies and other.vocabularies:
        _check_vocabularies(model.vocabularies, other.vocabularies, other.name)
    elif not told or model.vocabularies or other.vocabularies:  # else no column is counted
        _warn("its ids mean", model.vocabularies, other, "has no vocabulary")


def _warn(what: str, remembered: dict[str, Any], other: _Side, lacks: str) -> None:
    _LOG.warning(
        "%s is not that of the training run, and whether %s the same cannot be told: %s",
        "the data" if other.name == "the data" else f"the data of {other.name}",
        what,
        f"{other.name} {lacks}" if remembered else f"the model {lacks}",
    )


def _check_meanings(model: dict[str, Meaning], other: dict[str, Meaning], what: str) -> None:
    # A column that the other one has too, for something else, was not renamed.
    columns = {meaning.column for meaning in other.values()}
    differ = []
    for name, ours in model.items():
        theirs = other[name]
        another_column = bool(theirs.column) and ours.column not in ("", theirs.column)
        if ours.contradicts(theirs) or (another_column and ours.column in columns):
            differ.append(name)
        elif another_column or ours.written != theirs.written:
            _LOG.warning(
                "%s is %s in the data of the model, and %s in %s: it is taken for the same",
                *(name, _in_full(ours), _in_full(theirs), what),
            )
    if differ:
        first, *others = differ
        too = f" The same goes for {', '.join(others)}." if others else ""
        raise UserError(
            f"{first} is {_in_full(model[first])} in the data that the model was trained on, but "
            f"{_in_full(other[first])} in {what}.{too} Use data that was converted as the model's "
            "was, or train a model on this data."
        )


def _in_full(meaning: Meaning) -> str:
    column = f", of the column {meaning.column!r}" if meaning.column else ""
    written = f", written as {meaning.written!r}" if meaning.written else ""
    return f"({meaning.words}{column}{written})"


def _check_vocabularies(model: dict[str, str], data: dict[str, str], what: str) -> None:
    differ = [name for name in {**model, **data} if model.get(name) != data.get(name)]
    if differ:
        raise UserError(
            f"The ids of {', '.join(differ)} stand for other values in {what} than in the data "
            "that the model was trained on: the vocabularies differ. Use data of the same "
            "conversion, or train a model on this data."
        )


def _check_schemas(model: Schema, data: Schema, what: str) -> None:
    if model.dense != data.dense:
        raise UserError(
            f"The model was trained on the {len(model.dense)} dense columns "
            f"{', '.join(model.dense)}, but {what} has {len(data.dense)}: "
            f"{', '.join(data.dense)}."
        )
    ours = {column.name: column for column in model.categorical}
    theirs = {column.name: column for column in data.categorical}
    for name in [*ours, *theirs]:
        if ours.get(name) != theirs.get(name):
            raise UserError(
                f"Feature {name} {_in_words(ours.get(name))} in the model, but "
                f"{_in_words(theirs.get(name))} in {what}."
            )


def _in_words(column: CategoricalColumn | None) -> str:
    if column is None:
        return "does not exist"
    ids = "any number of ids" if column.hotness is None else f"{column.hotness} id(s)"
    row = column.out_of_vocabulary
    unknown = "no out-of-vocabulary id" if row is None else f"the out-of-vocabulary id {row}"
    return f"has a vocabulary of {column.vocabulary_size}, {ids} a row and {unknown}"
