"""Other ways to keep a table than one row for each id: the words of `TableConfig.storage`."""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import tensorflow as tf

from tf_dlrm.embeddings.hashing import hash_ids
from tf_dlrm.embeddings.initializers import Constant, Initializer, Uniform
from tf_dlrm.errors import check_whole

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
    rows_of: Callable[[tf.Tensor], tf.Tensor] = lambda ids: ids


class Storage(abc.ABC):
    """A way to keep a table. A subclass is a frozen dataclass of its options.

    Attributes:
        operation: How the vectors of several parts become one: one of `OPERATIONS`.
        takes_any_id: Whether ids go to the parts unchecked.
    """

    operation: str
    takes_any_id: ClassVar[bool] = False

    @abc.abstractmethod
    def parts(self, table: TableConfig) -> list[Part]:
        """Returns the lookups in place of those into `table`, and the tables that are there.

        Raises:
            ValueError: If the table cannot be kept so.
        """

    @property
    def pools_parts(self) -> bool:
        """Whether parts may be combined over a bag before they are put together."""
        return self.operation != "multiply"

    def put_together(self, vectors: Sequence[tf.Tensor]) -> tf.Tensor:
        """Returns the vectors [n, dim] of the table from those of its parts."""
        if len(vectors) == 1:
            return vectors[0]
        if self.operation == "concatenate":
            return tf.concat(vectors, 1)
        return vectors[0] * vectors[1] if self.operation == "multiply" else tf.add_n(vectors)

    def _check_operation(self, *allowed: str) -> None:
        if self.operation not in allowed:
            raise ValueError(f"operation must be one of {allowed}, but is {self.operation!r}.")


@dataclasses.dataclass(frozen=True)
class QuotientRemainder(Storage):
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
        check_whole("collisions", self.collisions, 2)
        self._check_operation(*OPERATIONS)

    def parts(self, table: TableConfig) -> list[Part]:
        """Returns a quotient and a remainder; see `Storage.parts`."""
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


@dataclasses.dataclass(frozen=True)
class MixedDimension(Storage):
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
    operation = "add"
    # The rows are those of the table, so its own check of ids does.
    takes_any_id = True

    def __post_init__(self) -> None:
        check_whole("dim", self.dim, 1)

    def parts(self, table: TableConfig) -> list[Part]:
        """Returns the narrow table, which has the name of `table`."""
        if self.dim > table.dim:
            raise ValueError(
                f"MixedDimension of table '{table.name}' must have a dim of at most {table.dim}, "
                f"the table's, but has {self.dim}."
            )
        row = table.out_of_vocabulary
        return [Part("", _stored(table, "", dim=self.dim, out_of_vocabulary=row))]


@dataclasses.dataclass(frozen=True)
class MultipleHashing(Storage):
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
    takes_any_id = True

    def __post_init__(self) -> None:
        check_whole("buckets", self.buckets, 1)
        check_whole("hashes", self.hashes, 1)
        self._check_operation(*OPERATIONS[1:])

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


@dataclasses.dataclass(frozen=True)
class WeightedRows(Storage):
    """Every row has a trained weight too, by which it counts in the bags: learned pooling.

    The weights start as ones and are trained by the table's optimizer, as a table [rows, 1]. They
    multiply the rows before the combiner sees them, so "mean" divides by the number of ids.

    References:
        Weighted pooling of the paper's code.
    """

    operation = "multiply"

    def parts(self, table: TableConfig) -> list[Part]:
        """Returns the table and that of its rows' weights, [rows, 1]."""
        weights = _stored(table, ".weights", dim=1, initializer=Constant(1.0))
        return [Part("", _stored(table, "")), Part(".weights", weights)]


STORAGES: tuple[type[Storage], ...] = (
    QuotientRemainder,
    MixedDimension,
    MultipleHashing,
    WeightedRows,
)


class _Plain(Storage):
    """The table itself."""

    operation = "add"
    takes_any_id = True  # since the table checks its own

    def parts(self, table: TableConfig) -> list[Part]:
        return [Part("", table)]


def storage_of(table: TableConfig) -> Storage:
    """Returns how a table is kept, also one whose `storage` is None."""
    found: Storage = _Plain() if table.storage is None else table.storage
    return found


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
