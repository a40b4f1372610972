"""Whether a model and data mean the same by their columns: names, sizes and ids."""

from __future__ import annotations

import logging
from typing import Any

from tf_dlrm.errors import UserError
from tf_dlrm.training.sources import Source, vocabulary_checksums
from tfrecords.schema import CategoricalColumn, Schema

_LOG = logging.getLogger(__name__)


def check_columns(run: dict[str, Any], source: Source) -> None:
    """Refuses data whose columns are not those that a model was trained on.

    Args:
        run: The description of the model's run (run.json).
        source: The data.

    Raises:
        UserError: If a column has another name or size, or ids that stand for other values.
    """
    _check_schemas(Schema.from_json(run["schema"]), source.schema)
    if source.fingerprint == run["data_fingerprint"]:
        return
    ours, theirs = run.get("vocabularies", {}), vocabulary_checksums(source)
    if ours and theirs:
        _check_vocabularies(ours, theirs, "the data")
    else:
        _LOG.warning(
            "the data is not that of the training run, and whether its ids mean the same cannot be "
            "told: %s",
            "it has no vocabulary" if ours else "the model remembers no vocabulary",
        )


def check_same_run(run: dict[str, Any], other: dict[str, Any], what: str) -> None:
    """Refuses a second model whose columns are not those of the first.

    Args:
        run: The description of the first one's run (run.json).
        other: That of the second one.
        what: What an error calls the second one.

    Raises:
        UserError: As `check_columns`.
    """
    _check_schemas(Schema.from_json(run["schema"]), Schema.from_json(other["schema"]), what)
    if other["data_fingerprint"] != run["data_fingerprint"]:
        ours, theirs = run.get("vocabularies", {}), other.get("vocabularies", {})
        if ours and theirs:
            _check_vocabularies(ours, theirs, what)


def _check_vocabularies(model: dict[str, str], data: dict[str, str], what: str) -> None:
    differ = [name for name in {**model, **data} if model.get(name) != data.get(name)]
    if differ:
        raise UserError(
            f"The ids of {', '.join(differ)} stand for other values in {what} than in the data "
            "that the model was trained on: the vocabularies differ. Use data of the same "
            "conversion, or train a model on this data."
        )


def _check_schemas(model: Schema, data: Schema, what: str = "the data") -> None:
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
