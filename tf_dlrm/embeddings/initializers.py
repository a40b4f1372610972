"""The first values of table rows, each a function of (seed, table name, row) alone.

Rows are drawn in chunks of a fixed size, each chunk with a stateless generator of its own, so any
shard of a table makes its own rows, the values do not depend on how the table is placed, and no
more than one chunk is in memory beside the table.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

# Part of the definition of the values: another number gives other tables from the same seed.
CHUNK_ROWS = 8192


@dataclasses.dataclass(frozen=True)
class Uniform:
    """Uniform in [-bound, bound); the paper's code draws with bound sqrt(1 / rows).

    Attributes:
        bound: Half the width, or None for sqrt(1 / rows of the table).
    """

    bound: float | None = None

    def __post_init__(self) -> None:
        if self.bound is not None and not 0.0 < self.bound < float("inf"):
            raise ValueError(f"bound must be None or a finite number above 0, but is {self.bound}.")

    def draw(self, shape: tuple[int, int], seed: tf.Tensor, vocabulary_size: int) -> tf.Tensor:
        """Returns float32 values of `shape` for one chunk, a function of `seed` alone."""
        bound = vocabulary_size**-0.5 if self.bound is None else self.bound
        return tf.random.stateless_uniform(shape, seed, -bound, bound, tf.float32, alg="philox")


@dataclasses.dataclass(frozen=True)
class Range:
    """Uniform in [low, high)."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not -float("inf") < self.low < self.high < float("inf"):
            raise ValueError(
                f"low and high must be finite numbers, low below high, but are {self.low} and "
                f"{self.high}."
            )

    def draw(self, shape: tuple[int, int], seed: tf.Tensor, vocabulary_size: int) -> tf.Tensor:
        """Returns float32 values of `shape` for one chunk, a function of `seed` alone."""
        del vocabulary_size
        return tf.random.stateless_uniform(
            shape, seed, self.low, self.high, tf.float32, alg="philox"
        )


@dataclasses.dataclass(frozen=True)
class Normal:
    """Normal with a mean and a standard deviation."""

    mean: float = 0.0
    stddev: float = 0.05

    def __post_init__(self) -> None:
        if not 0.0 <= self.stddev < float("inf"):
            raise ValueError(f"stddev must be a finite number of at least 0, but is {self.stddev}.")

    def draw(self, shape: tuple[int, int], seed: tf.Tensor, vocabulary_size: int) -> tf.Tensor:
        """Returns float32 values of `shape` for one chunk, a function of `seed` alone."""
        del vocabulary_size
        return tf.random.stateless_normal(
            shape, seed, self.mean, self.stddev, tf.float32, alg="philox"
        )


@dataclasses.dataclass(frozen=True)
class TruncatedNormal(Normal):
    """Normal, and drawn again where it is more than two standard deviations from the mean."""

    def draw(self, shape: tuple[int, int], seed: tf.Tensor, vocabulary_size: int) -> tf.Tensor:
        """Returns float32 values of `shape` for one chunk, a function of `seed` alone."""
        del vocabulary_size
        return tf.random.stateless_truncated_normal(
            shape, seed, self.mean, self.stddev, tf.float32, alg="philox"
        )


@dataclasses.dataclass(frozen=True)
class Constant:
    """One value everywhere."""

    value: float = 0.0

    def draw(self, shape: tuple[int, int], seed: tf.Tensor, vocabulary_size: int) -> tf.Tensor:
        """Returns float32 values of `shape`."""
        del seed, vocabulary_size
        return tf.fill(shape, tf.constant(self.value, tf.float32))


Initializer = Uniform | Range | Normal | TruncatedNormal | Constant
_KINDS: Mapping[str, type[Initializer]] = {
    kind.__name__: kind for kind in (Uniform, Range, Normal, TruncatedNormal, Constant)
}


def initializer_to_dict(initializer: Initializer) -> dict[str, Any]:
    """Returns a dict that `json.dumps` accepts and `initializer_from_dict` takes back."""
    return {"kind": type(initializer).__name__, **dataclasses.asdict(initializer)}


def initializer_from_dict(values: Mapping[str, Any]) -> Initializer:
    """Returns the initializer that `initializer_to_dict` described.

    Raises:
        ValueError: If the kind is none of this module's.
    """
    fields = dict(values)
    kind = fields.pop("kind", None)
    if kind not in _KINDS:
        raise ValueError(
            f"kind of an initializer must be one of {sorted(_KINDS)}, but is {kind!r}."
        )
    return _KINDS[kind](**fields)


def initial_rows(
    initializer: Initializer,
    *,
    seed: int,
    table: str,
    vocabulary_size: int,
    dim: int,
    start: int,
    count: int,
) -> tf.Tensor:
    """Returns the first values of a range of rows.

    Args:
        initializer: How the values are drawn.
        seed: Seed of the whole collection of tables.
        table: Name of the table, so that tables with one seed differ.
        vocabulary_size: Rows of the whole table, whatever part of it is drawn.
        dim: Columns.
        start: First row.
        count: Number of rows.

    Returns:
        A float32 tensor [count, dim].
    """
    digest = hashlib.sha256(f"{seed}/{table}".encode()).digest()
    key = int.from_bytes(digest[:7], "little")
    parts = []
    for chunk in range(start // CHUNK_ROWS, -(-(start + count) // CHUNK_ROWS)):
        first = chunk * CHUNK_ROWS
        drawn = initializer.draw(
            (CHUNK_ROWS, dim), tf.constant([key, chunk], tf.int64), vocabulary_size
        )
        parts.append(drawn[max(start - first, 0) : min(start + count - first, CHUNK_ROWS)])
    return tf.concat(parts, 0) if parts else tf.zeros((0, dim))
