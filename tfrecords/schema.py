"""What the columns of a click log are: the contract between writer, reader and model."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from tfrecords.errors import DataError


def _is_whole(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


@dataclasses.dataclass(frozen=True)
class CategoricalColumn:
    """A column of ids in `[0, vocabulary_size)`.

    Attributes:
        name: Name of the feature.
        vocabulary_size: Number of different ids, which is the number of rows of an embedding table
            for it.
        hotness: Ids per row. 1: the tensor is `[batch]`. `k > 1`: `[batch, k]`. None: any number of
            ids per row, a `tf.RaggedTensor` of shape `[batch, None]`.
        out_of_vocabulary: The id that stands for all values that the vocabulary does not hold, or
            None where every value has an id of its own.

    Raises:
        DataError: If the values contradict each other.
    """

    name: str
    vocabulary_size: int
    hotness: int | None = 1
    out_of_vocabulary: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise DataError(f"The name of a categorical column must be text, not {self.name!r}.")
        if not _is_whole(self.vocabulary_size) or not 1 <= self.vocabulary_size <= 2**62:
            raise DataError(
                f"Column {self.name!r}: vocabulary_size must be a whole number, at most 2**62 and "
                f"at least 1, not {self.vocabulary_size!r}."
            )
        if self.hotness is not None and (
            not _is_whole(self.hotness) or not 1 <= self.hotness < 2**31
        ):
            raise DataError(
                f"Column {self.name!r}: hotness must be a whole number of at least 1, or None for "
                f"any number of ids per row, not {self.hotness!r}."
            )
        oov = self.out_of_vocabulary
        if oov is not None and (not _is_whole(oov) or not 0 <= oov < self.vocabulary_size):
            raise DataError(
                f"Column {self.name!r}: out_of_vocabulary must be None or an id in "
                f"[0, {self.vocabulary_size}), not {oov!r}."
            )

    @property
    def dtype(self) -> np.dtype:
        """int32, or int64 where the vocabulary needs it; little-endian as in the files."""
        return np.dtype("<i8" if self.vocabulary_size >= 2**31 else "<i4")


@dataclasses.dataclass(frozen=True)
class Schema:
    """The columns of a data set.

    Attributes:
        dense: Names of the numeric columns, in the order of the columns of the `dense` matrix.
        categorical: The columns of ids.
        label: Name of the label column, whose values lie in [0, 1].

    Raises:
        DataError: If a name occurs twice or is one that the reader needs for itself.
    """

    dense: tuple[str, ...]
    categorical: tuple[CategoricalColumn, ...]
    label: str = "label"

    def __post_init__(self) -> None:
        object.__setattr__(self, "dense", tuple(self.dense))
        object.__setattr__(self, "categorical", tuple(self.categorical))
        for name in (*self.dense, self.label):
            if not isinstance(name, str) or not name:
                raise DataError(f"The name of a column must be text, not {name!r}.")
        if not self.dense and not self.categorical:
            raise DataError("A schema needs at least one dense or categorical column; it has none.")
        seen: set[str] = set()
        for name in (*self.dense, *self.categorical_names, self.label):
            if name in seen:
                raise DataError(
                    f"The schema names the column {name!r} twice; every name may occur once."
                )
            seen.add(name)
        if "dense" in self.categorical_names:
            raise DataError(
                "A categorical column cannot be called 'dense': that is the key of the matrix of "
                "all dense columns."
            )
        if self.label == "dense":
            raise DataError(
                "The label cannot be called 'dense': that is the matrix of all dense columns."
            )

    @property
    def categorical_names(self) -> tuple[str, ...]:
        """Names of the categorical columns, in order."""
        return tuple(column.name for column in self.categorical)

    @property
    def row_bytes(self) -> int:
        """Bytes of the values of a row; of a column of any number of ids, those of one id."""
        ids = sum((column.hotness or 1) * column.dtype.itemsize for column in self.categorical)
        return 4 * (1 + len(self.dense)) + ids

    def to_json(self) -> dict[str, Any]:
        """The schema as values that `json.dumps` takes."""
        return {
            "dense": list(self.dense),
            "categorical": [dataclasses.asdict(column) for column in self.categorical],
            "label": self.label,
        }

    @classmethod
    def from_json(cls, value: Any) -> Schema:
        """The inverse of `to_json`.

        Raises:
            DataError: If a part is missing, is not known, or is not allowed.
        """
        try:
            for part in ("dense", "categorical"):
                # A text is a sequence of names too, each of one letter.
                if not isinstance(value[part], (list, tuple)):
                    raise DataError(
                        f"{part!r} of a schema must be a list, not {value[part]!r:.80}."
                    )
            return cls(
                dense=tuple(value["dense"]),
                categorical=tuple(CategoricalColumn(**column) for column in value["categorical"]),
                label=value["label"],
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"The schema cannot be read: {error!r:.80}.") from error
