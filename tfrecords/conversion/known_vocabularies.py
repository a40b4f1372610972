"""The vocabularies of a data set, for other data whose values are to have the same ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tfrecords import files
from tfrecords.conversion import meanings
from tfrecords.conversion.meanings import Meaning
from tfrecords.conversion.vocabulary_files import read_vocabulary
from tfrecords.dataset_info import DatasetInfo, VocabularyInfo
from tfrecords.errors import DataError


class KnownVocabulary(NamedTuple):
    """The vocabulary of a column.

    Attributes:
        info: What `dataset.json` says of it.
        keys: uint64, in the order of their ids.
    """

    info: VocabularyInfo
    keys: np.ndarray


def known_vocabulary(folder: str, info: DatasetInfo, column: str) -> KnownVocabulary:
    """Reads the vocabulary of a column.

    Args:
        folder: The data set folder.
        info: Its `dataset.json`.
        column: Name of the column.

    Raises:
        DataError: If the data set has none, or it is damaged.
    """
    if column not in info.vocabularies:
        raise DataError(
            f"The data set {folder} has no vocabulary of {column!r}; it has "
            f"{', '.join(info.vocabularies) or 'none'}."
        )
    found = info.vocabularies[column]
    keys = read_vocabulary(folder, found)
    if keys is None:
        raise DataError(
            f"The vocabulary {files.join(folder, found.path)} is missing or damaged; convert the "
            "data again."
        )
    return KnownVocabulary(found, keys)


class KnownVocabularies:
    """Those of some columns of a data set.

    Args:
        folder: The data set folder.
        columns: Names of the columns.
        own: What the values of these columns mean in the other data, as `meanings` says it.

    Attributes:
        fingerprint: That of the data set.
        columns: By name.

    Raises:
        DataError: If the data set has no vocabulary of a column, a damaged one, one that has no id
            for values that it does not know, or one of values that mean something else.
    """

    def __init__(self, folder: str, columns: Sequence[str], own: Mapping[str, Meaning]) -> None:
        info = DatasetInfo.load_description(folder)
        self.fingerprint = info.fingerprint
        self.columns: dict[str, KnownVocabulary] = {}
        known = meanings.of_data_set(info.how_it_was_made)
        for column in columns:
            vocabulary = known_vocabulary(folder, info, column)
            name = meanings.feature(column)
            if name in known and name in own and own[name].contradicts(known[name]):
                raise DataError(
                    f"{name} is {own[name].words} here, but {known[name].words} in the data set "
                    f"{folder}, so its vocabulary cannot be used."
                )
            if not vocabulary.info.reserved:
                raise DataError(
                    f"The data set {folder} was converted with --reference: the vocabulary of "
                    f"{column!r} has no id for values that it does not know, so it cannot be used "
                    "for other data."
                )
            self.columns[column] = vocabulary
