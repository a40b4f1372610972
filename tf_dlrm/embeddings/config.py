"""What a table is, and which feature looks into which table."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

import tensorflow as tf

from tf_dlrm.embeddings.described import from_dict, to_dict
from tf_dlrm.embeddings.initializers import CHUNK_ROWS, INITIALIZERS, Initializer, Uniform
from tf_dlrm.embeddings.keras_initializers import from_keras
from tf_dlrm.embeddings.optimizers import OPTIMIZERS, Optimizer, optimizer_from_dict
from tf_dlrm.embeddings.storage import STORAGES, Storage
from tf_dlrm.errors import check_whole

COMBINERS = ("sum", "mean", "sqrtn")


@dataclasses.dataclass(frozen=True)
class TableConfig:
    """One embedding table [vocabulary_size, dim] of float32.

    Attributes:
        name: Name of the table: its key in checkpoints, and part of the seed of its first values.
        vocabulary_size: Number of rows.
        dim: Number of columns.
        initializer: First values; by default the paper's, uniform in +-sqrt(1 / rows). One of
            Keras's, or its name, is taken as the one here that draws from its distribution.
        optimizer: How the rows learn; with `Frozen()` they do not. There is no default, since no
            optimizer of Keras acts on tables.
        combiner: How the vectors of one bag become one: "sum", "mean" or "sqrtn".
        out_of_vocabulary: The row for ids outside [0, vocabulary_size); None makes them errors.
        storage: None for a row of `dim` numbers for each id; or `QuotientRemainder`,
            `MixedDimension`, `MultipleHashing` for smaller tables, or `WeightedRows`.
    """

    name: str
    vocabulary_size: int
    dim: int
    initializer: Initializer = Uniform()
    optimizer: Optimizer = cast(Optimizer, None)  # __post_init__ says what is missing
    combiner: str = "sum"
    out_of_vocabulary: int | None = None
    storage: Storage | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"name of a table must be a non-empty string, but is {self.name!r}.")
        for field in ("vocabulary_size", "dim"):
            check_whole(f"{field} of table '{self.name}'", getattr(self, field), 1)
        if not isinstance(self.initializer, Initializer):
            try:
                own = from_keras(self.initializer, self.vocabulary_size, self.dim)
            except ValueError as error:
                raise ValueError(f"initializer of table '{self.name}': {error}.") from error
            object.__setattr__(self, "initializer", own)
        if not isinstance(self.optimizer, Optimizer):
            kinds = ", ".join(kind.__name__ for kind in OPTIMIZERS)
            given = "is missing" if self.optimizer is None else f"is {self.optimizer!r}"
            raise ValueError(
                f"optimizer of table '{self.name}' must be one of tf_dlrm.embeddings "
                f"({kinds}), such as Adagrad(0.05), but {given}. The "
                "optimizer that a model is compiled with does not train tables."
            )
        if self.combiner not in COMBINERS:
            raise ValueError(
                f"combiner of table '{self.name}' must be one of {COMBINERS}, but is "
                f"{self.combiner!r}."
            )
        row, whole = self.out_of_vocabulary, type(self.out_of_vocabulary) is int
        if row is not None and not (whole and 0 <= row < self.vocabulary_size):
            raise ValueError(
                f"out_of_vocabulary of table '{self.name}' must be None or a row of the table, in "
                f"[0, {self.vocabulary_size}), but is {row!r}."
            )
        if self.storage is not None:
            if not isinstance(self.storage, Storage):
                raise ValueError(
                    f"storage of table '{self.name}' must be None, QuotientRemainder, "
                    f"MixedDimension, MultipleHashing or WeightedRows, but is {self.storage!r}."
                )
            self.storage.parts(self)  # says what does not fit

    def initial_rows(self, seed: int, start: int, count: int) -> tf.Tensor:
        """Returns the first values, float32 [count, dim], of the rows from `start` on.

        They are a function of the seed, the table's name and the row alone. Each chunk of rows has
        a stateless generator of its own, so any part of a table can make its own rows, however the
        table is placed.
        """
        digest = hashlib.sha256(f"{seed}/{self.name}".encode()).digest()
        key = int.from_bytes(digest[:7], "little")
        parts = []
        for chunk in range(start // CHUNK_ROWS, -(-(start + count) // CHUNK_ROWS)):
            first = chunk * CHUNK_ROWS
            of_chunk = tf.constant([key, chunk], tf.int64)
            drawn = self.initializer.draw((CHUNK_ROWS, self.dim), of_chunk, self.vocabulary_size)
            parts.append(drawn[max(start - first, 0) : min(start + count - first, CHUNK_ROWS)])
        return tf.concat(parts, 0) if parts else tf.zeros((0, self.dim))

    def to_dict(self) -> dict[str, Any]:
        """Returns a dict that `json.dumps` accepts and `from_dict` takes back."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for field in ("initializer", "optimizer", "storage"):
            values[field] = None if values[field] is None else to_dict(values[field])
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TableConfig":
        """Returns the table that `to_dict` described."""
        fields = dict(values)
        fields["initializer"] = from_dict("an initializer", INITIALIZERS, fields["initializer"])
        fields["optimizer"] = optimizer_from_dict(fields["optimizer"])
        if fields.get("storage") is not None:
            fields["storage"] = from_dict("a storage", STORAGES, fields["storage"])
        return cls(**fields)


@dataclasses.dataclass(frozen=True)
class FeatureConfig:
    """One feature, whose ids are rows of `table`.

    Features with the same table, that is with equal configs of one name, share its rows.

    Attributes:
        name: Name of the feature: the key of its ids and of its vectors.
        table: The table that it looks into.
    """

    name: str
    table: TableConfig

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"name of a feature must be a non-empty string, but is {self.name!r}.")
        if not isinstance(self.table, TableConfig):
            raise ValueError(
                f"table of feature '{self.name}' must be a TableConfig, but is {self.table!r}."
            )

    def to_dict(self) -> dict[str, Any]:
        """Returns a dict that `json.dumps` accepts and `from_dict` takes back."""
        return {"name": self.name, "table": self.table.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "FeatureConfig":
        """Returns the feature that `to_dict` described."""
        return cls(values["name"], TableConfig.from_dict(values["table"]))


def tables_of(features: Sequence[FeatureConfig]) -> tuple[TableConfig, ...]:
    """Returns the tables of `features`, each once, in the order of first use.

    Raises:
        ValueError: If there are no features, two features of one name, or two different tables of
            one name.
    """
    if not features:
        raise ValueError("features must name at least one feature, but is empty.")
    names: set[str] = set()
    tables: dict[str, TableConfig] = {}
    for feature in features:
        if not isinstance(feature, FeatureConfig):
            raise ValueError(f"features must hold FeatureConfig objects, but has {feature!r}.")
        if feature.name in names:
            raise ValueError(f"Two features are named '{feature.name}'; names must differ.")
        names.add(feature.name)
        known = tables.setdefault(feature.table.name, feature.table)
        if known != feature.table:
            raise ValueError(
                f"Two different tables are named '{known.name}': {known} and {feature.table}. "
                "Features share a table through equal configs; other tables need another name."
            )
    return tuple(tables.values())


def features_to_json(features: Sequence[FeatureConfig]) -> str:
    """Returns JSON that `features_from_json` takes back."""
    return json.dumps([feature.to_dict() for feature in features], indent=2)


def features_from_json(text: str) -> tuple[FeatureConfig, ...]:
    """Returns the features that `features_to_json` wrote."""
    return tuple(FeatureConfig.from_dict(values) for values in json.loads(text))
