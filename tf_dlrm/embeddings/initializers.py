"""How the first values of table rows are drawn."""

import abc
import dataclasses

import tensorflow as tf

from tf_dlrm.errors import check_at_least_zero

# Rows whose first values are drawn together, and so a part of the definition of these: another
# number gives other tables from the same seed.
CHUNK_ROWS = 8192


class Initializer(abc.ABC):
    """A distribution. A subclass is a frozen dataclass of its numbers."""

    @abc.abstractmethod
    def draw(self, shape: tuple[int, int], seed: tf.Tensor, vocabulary_size: int) -> tf.Tensor:
        """Returns float32 values of `shape` for one chunk of rows, a function of `seed` alone."""


@dataclasses.dataclass(frozen=True)
class Uniform(Initializer):
    """Uniform in [-bound, bound); the paper's code draws with bound sqrt(1 / rows).

    Attributes:
        bound: Half the width, or None for sqrt(1 / rows of the table).
    """

    bound: float | None = None

    def __post_init__(self) -> None:
        if self.bound is not None and not 0.0 < self.bound < float("inf"):
            raise ValueError(f"bound must be None or a finite number above 0, but is {self.bound}.")

    def draw(self, shape: tuple[int, int], seed: tf.Tensor, vocabulary_size: int) -> tf.Tensor:
        """See `Initializer.draw`."""
        bound = vocabulary_size**-0.5 if self.bound is None else self.bound
        return Range(-bound, bound).draw(shape, seed, vocabulary_size)


@dataclasses.dataclass(frozen=True)
class Range(Initializer):
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
        """See `Initializer.draw`."""
        return tf.random.stateless_uniform(shape, seed, self.low, self.high, alg="philox")


@dataclasses.dataclass(frozen=True)
class Normal(Initializer):
    """Normal with a mean and a standard deviation."""

    mean: float = 0.0
    stddev: float = 0.05

    def __post_init__(self) -> None:
        check_at_least_zero(self, "stddev")

    def draw(self, shape: tuple[int, int], seed: tf.Tensor, vocabulary_size: int) -> tf.Tensor:
        """See `Initializer.draw`."""
        return tf.random.stateless_normal(shape, seed, self.mean, self.stddev, alg="philox")


@dataclasses.dataclass(frozen=True)
class TruncatedNormal(Normal):
    """Normal, and drawn again where it is more than two standard deviations from the mean."""

    def draw(self, shape: tuple[int, int], seed: tf.Tensor, vocabulary_size: int) -> tf.Tensor:
        """See `Initializer.draw`."""
        return tf.random.stateless_truncated_normal(
            shape, seed, self.mean, self.stddev, alg="philox"
        )


@dataclasses.dataclass(frozen=True)
class Constant(Initializer):
    """One value everywhere."""

    value: float = 0.0

    def draw(self, shape: tuple[int, int], seed: tf.Tensor, vocabulary_size: int) -> tf.Tensor:
        """See `Initializer.draw`."""
        return tf.fill(shape, tf.constant(self.value, tf.float32))


INITIALIZERS: tuple[type[Initializer], ...] = (Uniform, Range, Normal, TruncatedNormal, Constant)
