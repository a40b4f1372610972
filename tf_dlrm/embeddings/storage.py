"""Other ways to keep a table than one row for each id: the words of `TableConfig.storage`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tf_dlrm.embeddings.hashing import hash_ids
from tf_dlrm.embeddings.initializers import Constant, Initializer, Uniform

# That of `config`, which has a storage: to import it here would be a circle.
TableConfig = Any

OPERATIONS = ("multiply", "add", "concatenate")


@dataclasses.dataclass(frozen=True)
class Part:
    """One of the lookups that a vector of the table is made of.

    Attributes:
        suffix: What is appended to the name of the feature that looks it up.
        table: The table that is really there.
        rows_of: Returns the rows of `table`, a tensor like the given one of ids in the vocabulary.
    """

    suffix: str
    table: TableConfig
    rows_of: Callable[[tf.Tensor], tf.Tensor]


@dataclasses.dataclass(frozen=True)
class QuotientRemainder:
    """Two small tables: the vector of id i is made of row i // collisions and row i % collisions.

    No two ids share both rows, so their vectors differ, with 1 / `collisions` of the numbers.

    Ids are divided as whole numbers, exactly at any size. In a bag of several ids, each one's
    vector is made before the bag is combined. With "multiply" the remainder's rows start as ones,
    so that vectors start as the quotient's rows.

    Attributes:
        collisions: Ids that share a row of the quotient's table: the rows of the remainder's.
        operation: How the two become one: "multiply", "add", or "concatenate", where each has half
            of the columns.

    References:
        Shi et al., Compositional Embeddings Using Complementary Partitions for Memory-Efficient
        Recommendation Systems, arXiv 1909.02107, section 2.
    """

    collisions: int = 4
    operation: str = "multiply"

    def __post_init__(self) -> None:
        _check_whole("collisions", self.collisions, 2)
        if self.operation not in OPERATIONS:
            raise ValueError(f"operation must be one of {OPERATIONS}, but is {self.operation!r}.")

    @property
    def pools_parts(self) -> bool:
        """Whether parts may be combined over a bag before they are put together."""
        return self.operation != "multiply"

    def parts(self, table: TableConfig) -> list[Part]:
        """Returns the tables that are there in place of `table`."""
        widths = (table.dim, table.dim)
        if self.operation == "concatenate":
            if table.dim < 2:
                raise ValueError(
                    f"Table '{table.name}' of dim 1 cannot be concatenated from two tables."
                )
            widths = (table.dim - table.dim // 2, table.dim // 2)
        initializer = _of_whole(table)
        quotient = _stored(
            table,
            ".quotient",
            vocabulary_size=-(-table.vocabulary_size // self.collisions),
            dim=widths[0],
            initializer=initializer,
        )
        remainder = _stored(
            table,
            ".remainder",
            vocabulary_size=min(self.collisions, table.vocabulary_size),
            dim=widths[1],
            initializer=Constant(1.0) if self.operation == "multiply" else initializer,
        )
        # No more than there are rows, so that it is a number of the ids' own type.
        divisor = min(self.collisions, table.vocabulary_size)
        return [
            Part(".quotient", quotient, lambda ids: ids // divisor),
            Part(".remainder", remainder, lambda ids: ids % divisor),
        ]

    def put_together(self, vectors: Sequence[tf.Tensor]) -> tf.Tensor:
        """Returns the vectors [n, dim] of the table from those of its parts."""
        if self.operation == "concatenate":
            return tf.concat(vectors, 1)
        return vectors[0] * vectors[1] if self.operation == "multiply" else tf.add_n(vectors)


@dataclasses.dataclass(frozen=True)
class MixedDimension:
    """A table of fewer columns, and a trained matrix [dim, dim of the table] behind it.

    The matrix is a weight of the layer, trained by the model's own optimizer. How many columns a
    table should have follows from how popular its rows are, see `mixed_dimensions`.

    Attributes:
        dim: Columns that the table really has.

    References:
        Ginart et al., Mixed Dimension Embeddings with Application to Memory-Efficient
        Recommendation Systems, arXiv 1909.11810, section 3.
    """

    dim: int
    pools_parts = True

    def __post_init__(self) -> None:
        _check_whole("dim", self.dim, 1)

    def parts(self, table: TableConfig) -> list[Part]:
        """Returns the narrow table, which has the name of `table`."""
        if self.dim > table.dim:
            raise ValueError(
                f"MixedDimension of table '{table.name}' must have a dim of at most {table.dim}, "
                f"the table's, but has {self.dim}."
            )
        # The rows are those of the table, so its own check of ids does.
        row = table.out_of_vocabulary
        return [Part("", _stored(table, "", dim=self.dim, out_of_vocabulary=row), tf.identity)]

    def put_together(self, vectors: Sequence[tf.Tensor]) -> tf.Tensor:
        """Returns the narrow vectors; the layer has the matrix."""
        return vectors[0]


@dataclasses.dataclass(frozen=True)
class MultipleHashing:
    """A table of `buckets` rows for any ids whatever: each is hashed to several rows.

    Two ids have equal vectors only if all of their hashes are equal. Ids need not be in
    [0, vocabulary_size): every int64 is an id, and the table's `out_of_vocabulary` an id like any
    other.

    Attributes:
        buckets: Rows of the table.
        hashes: Number of hash functions.
        operation: How their rows become one vector: "add", or "concatenate", where the table has
            1 / `hashes` of the columns.

    References:
        Zhang et al., Model Size Reduction Using Frequency Based Double Hashing for Recommender
        Systems, RecSys 2020; SplitMix64 as the hash function.
    """

    buckets: int
    hashes: int = 2
    operation: str = "add"
    pools_parts = True

    def __post_init__(self) -> None:
        _check_whole("buckets", self.buckets, 1)
        _check_whole("hashes", self.hashes, 1)
        if self.operation not in OPERATIONS[1:]:
            raise ValueError(
                f"operation must be one of {OPERATIONS[1:]}, but is {self.operation!r}."
            )

    def parts(self, table: TableConfig) -> list[Part]:
        """Returns the hashed table, which has the name of `table`, once for each hash."""
        dim = table.dim
        if self.operation == "concatenate":
            if dim % self.hashes:
                raise ValueError(
                    f"The dim of table '{table.name}', {dim}, must be a multiple of {self.hashes}, "
                    "the hashes that are concatenated."
                )
            dim //= self.hashes
        stored = _stored(table, "", vocabulary_size=self.buckets, dim=dim)

        def bucket(ids: tf.Tensor, *, key: int) -> tf.Tensor:
            hashed = hash_ids(key, tf.cast(ids, tf.int64))
            return tf.cast(hashed % tf.constant(self.buckets, tf.uint64), tf.int64)

        return [
            Part(f".hash_{key}", stored, functools.partial(bucket, key=key))
            for key in range(self.hashes)
        ]

    def put_together(self, vectors: Sequence[tf.Tensor]) -> tf.Tensor:
        """Returns the vectors [n, dim] of the table from those of its parts."""
        return tf.concat(vectors, 1) if self.operation == "concatenate" else tf.add_n(vectors)


@dataclasses.dataclass(frozen=True)
class WeightedRows:
    """Every row has a trained weight too, by which it counts in the bags: learned pooling.

    The weights start as ones and are trained by the table's optimizer, as a table [rows, 1]. They
    multiply the rows before the combiner sees them, so "mean" divides by the number of ids.

    References:
        Weighted pooling of the paper's code.
    """

    pools_parts = False

    def parts(self, table: TableConfig) -> list[Part]:
        """Returns the table and that of its rows' weights."""
        weights = _stored(table, ".weights", dim=1, initializer=Constant(1.0))
        return [
            Part("", _stored(table, ""), tf.identity),
            Part(".weights", weights, tf.identity),
        ]

    def put_together(self, vectors: Sequence[tf.Tensor]) -> tf.Tensor:
        """Returns the rows [n, dim] times their weights [n, 1]."""
        return vectors[0] * vectors[1]


Storage = QuotientRemainder | MixedDimension | MultipleHashing | WeightedRows
_KINDS: Mapping[str, type[Storage]] = {
    kind.__name__: kind
    for kind in (QuotientRemainder, MixedDimension, MultipleHashing, WeightedRows)
}


def storage_to_dict(storage: Storage | None) -> dict[str, Any] | None:
    """Returns a dict that `json.dumps` accepts and `storage_from_dict` takes back."""
    if storage is None:
        return None
    return {"kind": type(storage).__name__, **dataclasses.asdict(storage)}


def storage_from_dict(values: Mapping[str, Any] | None) -> Storage | None:
    """Returns the storage that `storage_to_dict` described.

    Raises:
        ValueError: If the kind is none of this module's.
    """
    if values is None:
        return None
    fields = dict(values)
    kind = fields.pop("kind", None)
    if kind not in _KINDS:
        raise ValueError(f"kind of a storage must be one of {sorted(_KINDS)}, but is {kind!r}.")
    return _KINDS[kind](**fields)


def mixed_dimensions(rows: Sequence[int], dim: int, temperature: float) -> list[int]:
    """Returns how many columns each table should have: fewer where rows are less popular.

    A row of a table of n rows is looked up by 1 in n examples. Popularity to the power of
    `temperature`, scaled so that the smallest table gets `dim`, rounded to powers of 2.

    Args:
        rows: Rows of each table.
        dim: Columns of the widest table.
        temperature: 0 gives all tables `dim` columns; 1 equally many numbers.

    Raises:
        ValueError: If the temperature is not in [0, 1].

    References:
        Ginart et al., arXiv 1909.11810, section 3.2, algorithm 1.
    """
    if not 0.0 <= temperature <= 1.0:
        raise ValueError(f"temperature must be in [0, 1], but is {temperature}.")
    wanted = [dim * (min(rows) / count) ** temperature for count in rows]
    powers = [1]
    while powers[-1] < dim:
        powers.append(2 * powers[-1])
    powers = [*powers[:-1], dim] if powers[-1] > dim else powers
    return [min(powers, key=lambda power: abs(power - want)) for want in wanted]


def _of_whole(table: TableConfig) -> Initializer:
    """Returns the table's initializer, with the bound that the rows of all of the table give."""
    if table.initializer == Uniform():
        return Uniform(table.vocabulary_size**-0.5)
    return table.initializer


def _stored(table: TableConfig, suffix: str, **changes: Any) -> TableConfig:
    plain = {"name": table.name + suffix, "storage": None, "out_of_vocabulary": None}
    return dataclasses.replace(table, **(plain | changes))


def _check_whole(field: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{field} must be a whole number of at least {least}, but is {value!r}.")
