"""From encoded rows and vocabularies to the arrays of a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfrecords.conversion import multi_hot
from tfrecords.conversion.encoding import EncodedRows, value_mask
from tfrecords.conversion.formats import InputColumn, InputFormat
from tfrecords.conversion.options import Options
from tfrecords.conversion.vocabulary import Vocabulary
from tfrecords.errors import DataError
from tfrecords.kinds.number import Number
from tfrecords.schema import CategoricalColumn, Schema


def hotness(format: InputFormat, options: Options) -> tuple[int | None, ...]:
    """Ids per row of each categorical column of the data set; None where it is ragged.

    Raises:
        DataError: If `--multi_hot` does not fit the columns.
    """
    if not options.multi_hot:
        return tuple(column.hotness for column in format.columns)
    if len(options.multi_hot) != len(format.columns):
        raise DataError(
            f"--multi_hot names {len(options.multi_hot)} numbers of ids, where the input has "
            f"{len(format.columns)} categorical columns; name one number for each."
        )
    for column in format.columns:
        if column.hotness != 1:
            raise DataError(
                "--multi_hot makes several ids of columns of one id; the column "
                f"{column.name!r} has {column.hotness or 'any number of'} ids already."
            )
    return options.multi_hot


def schema(format: InputFormat, options: Options, vocabularies: Sequence[Vocabulary]) -> Schema:
    """The schema of the data set."""
    return Schema(
        dense=format.dense,
        categorical=tuple(
            CategoricalColumn(
                column.name,
                vocabulary.size,
                ids,
                out_of_vocabulary=0 if vocabulary.reserved else None,
            )
            for column, vocabulary, ids in zip(
                format.columns, vocabularies, hotness(format, options), strict=True
            )
        ),
        label=format.label,
    )


class Features:
    """Makes the arrays that `DatasetWriter.write` takes.

    Args:
        columns: The categorical columns of the input.
        vocabularies: Their vocabularies.
        options: How to convert.
        numbers: What a value of some dense columns is that the rows hold only clipped, by their
            number; None for none.
    """

    def __init__(
        self,
        columns: Sequence[InputColumn],
        vocabularies: Sequence[Vocabulary],
        options: Options,
        numbers: Mapping[int, Number] | None = None,
    ) -> None:
        self._numbers = numbers or {}
        self._columns = columns
        self._vocabularies = vocabularies
        self._options = options

    def __call__(
        self, rows: EncodedRows, mask: np.ndarray | None
    ) -> tuple[dict[str, Any], np.ndarray]:
        """Features and label of rows.

        Args:
            rows: The rows of a piece.
            mask: bool `[rows]`, the ones to use; None for all.
        """
        label, dense = rows.label, rows.dense
        if mask is not None:
            label, dense = label[mask], dense[:, mask]
        features: dict[str, Any] = {}
        if len(dense):
            matrix = np.array(dense.T, order="C")
            for number, meaning in self._numbers.items():
                matrix[:, number] = meaning.finish(dense[number])
            features["dense"] = matrix
        for index, column in enumerate(self._columns):
            encoded = rows.columns[index]
            codes = encoded.codes
            if mask is not None:
                codes = codes[value_mask(encoded, mask, column.hotness or 1)]
            ids = self._ids(index, encoded.keys)[codes]
            if encoded.lengths is not None:
                lengths = encoded.lengths if mask is None else encoded.lengths[mask]
                features[column.name] = (ids, lengths)
            elif column.hotness == 1:
                features[column.name] = ids
            else:
                features[column.name] = ids.reshape(len(label), column.hotness or 1)
        return features, label

    def _ids(self, index: int, keys: np.ndarray) -> np.ndarray:
        """Ids `[keys]`, or bags of them `[keys, hotness]`."""
        vocabulary = self._vocabularies[index]
        ids = vocabulary.look_up(keys)
        options = self._options
        if not options.multi_hot or options.multi_hot[index] == 1:
            return ids
        return multi_hot.bags(
            ids,
            options.multi_hot[index],
            vocabulary.size,
            index,
            options.multi_hot_distribution,
            options.seed,
        )
