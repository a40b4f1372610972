"""Memory: what a model needs and what there is, so that too little is said before it runs out."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator

import tensorflow as tf

from tf_dlrm.embeddings import FeatureConfig, TableConfig, stored_features, tables_of
from tf_dlrm.errors import UserError, first_line
from tf_dlrm.training.distribution.processes import Processes
from tf_dlrm.training.options.model import ModelOptions
from tfrecords.machine import available_bytes, in_words

_FLOAT_BYTES = 4


def check_memory(
    options: ModelOptions, dense_features: int, features: tuple[FeatureConfig, ...]
) -> None:
    """Refuses a model that is larger than the memory of this machine, before it is made.

    Tables on GPUs, TPUs and parameter servers are not in it. Where several processes share the
    tables, each is taken to hold an equal part.

    Raises:
        UserError: If weights, tables and slots need more than there is.
    """
    strategy = tf.distribute.get_strategy()
    elsewhere = (tf.distribute.ParameterServerStrategy, tf.distribute.TPUStrategy)
    available = available_bytes()
    if (
        available is None
        or isinstance(strategy, elsewhere)
        or tf.config.list_physical_devices("GPU")
    ):
        return
    tables = tables_of(stored_features(features))
    of_tables = {table.name: _table_bytes(table) for table in tables}
    needed = sum(of_tables.values()) // Processes(strategy).count
    needed = options.ensemble_size * (
        needed + _FLOAT_BYTES * _least_weights(options, dense_features)
    )
    if needed <= available:
        return
    of_largest = ""
    largest = max(tables, key=lambda table: of_tables[table.name], default=None)
    if largest is not None and 10 * of_tables[largest.name] > needed:
        of_largest = (
            f" The largest table, {largest.name}, has {largest.vocabulary_size} rows of "
            f"{largest.dim} numbers: with its optimizer's, {in_words(of_tables[largest.name])}."
        )
    raise UserError(
        f"The model needs {in_words(needed)} of memory or more, but this machine has "
        f"{in_words(available)} left.{of_largest} Take smaller sizes (--embedding_dim, "
        "--hash_buckets, --top_mlp, --ensemble_size; of random data --random_tables), or spread "
        "the tables over several machines (--distribution=multi_worker_mirrored or "
        "parameter_server)."
    )


@contextlib.contextmanager
def said_when_it_runs_out(advice: str) -> Iterator[None]:
    """Turns the error of an allocation that failed into a sentence."""
    try:
        yield
    except (tf.errors.ResourceExhaustedError, MemoryError) as error:
        raise UserError(f"There is not enough memory ({first_line(error)}). {advice}") from error


def _table_bytes(table: TableConfig) -> int:
    """Returns the bytes of the rows of a table and of its optimizer's slots."""
    slots = sum(1 if slot.row_wise else table.dim for slot in table.optimizer.slots)
    return table.vocabulary_size * (table.dim + slots) * _FLOAT_BYTES


def _least_weights(options: ModelOptions, dense_features: int) -> int:
    """Returns how many weights the dense part has at least.

    The inputs of most MLPs are not known before the model is made; each layer's are at least one.
    """
    sizes = options.sizes
    layers = [
        (dense_features if name == "bottom_mlp" else 1, *sizes.get(name, ()))
        for name in (
            *("bottom_mlp", "top_mlp", "interaction_units"),
            *("first_projection", "second_projection"),
        )
    ]
    pairs = itertools.chain.from_iterable(map(itertools.pairwise, layers))
    weights = sum(math.prod(pair) for pair in pairs)
    return weights + sizes.get("cross_layers", 0) * sizes.get("cross_rank", 1)
