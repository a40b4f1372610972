"""The columns of the random source, from the few numbers that its flags give.

Nothing here imports TensorFlow, so that a mistaken flag is reported before TensorFlow starts.
"""

from __future__ import annotations

from collections.abc import Sequence

from tfrecords.errors import DataError
from tfrecords.schema import CategoricalColumn, Schema

CRITEO_KAGGLE = "criteo_kaggle"
# Ids per column of the Criteo Kaggle data (tools/visualize.py of facebookresearch/dlrm).
KAGGLE_VOCABULARY_SIZES = (
    *(1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194),
    *(27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572),
)
# Several operations each in the graphs that make rows and train on them.
MOST_TABLES = 5000


def table_sizes(tables: Sequence[str], max_vocabulary: int = 0) -> tuple[int, ...]:
    """Vocabulary sizes of the tables.

    Args:
        tables: Sizes, or `("criteo_kaggle",)` for those of Criteo's 26 columns.
        max_vocabulary: Upper bound of every size; 0 for none.

    Raises:
        DataError: If an entry is no size.
    """
    sizes: tuple[int, ...] = KAGGLE_VOCABULARY_SIZES
    if tuple(tables) != (CRITEO_KAGGLE,):
        for size in tables or ("",):
            if not size.isdecimal() or int(size) < 1:
                raise DataError(
                    f"tables has {size!r}, but takes vocabulary sizes of 1 or more, or "
                    f"{CRITEO_KAGGLE}."
                )
        if len(tables) > MOST_TABLES:
            raise DataError(f"tables has {len(tables)} sizes, but takes at most {MOST_TABLES}.")
        sizes = tuple(int(size) for size in tables)
    return tuple(min(size, max_vocabulary or size) for size in sizes)


def random_schema(sizes: Sequence[int], dense_features: int, hotness: int | None) -> Schema:
    """A schema with the columns I1, I2, ... and C1, C2, ...

    Args:
        sizes: Vocabulary size of each categorical column.
        dense_features: Number of dense columns.
        hotness: Ids per row of each categorical column; None for any number.
    """
    return Schema(
        dense=tuple(f"I{k + 1}" for k in range(dense_features)),
        categorical=tuple(
            CategoricalColumn(f"C{k + 1}", size, hotness) for k, size in enumerate(sizes)
        ),
    )


def check_lookups(schema: Schema, indices_per_lookup: int, repeats: bool) -> None:
    """Raises DataError where bags without repeats need more ids than a table has.

    Args:
        schema: The columns.
        indices_per_lookup: Upper bound of the ids per row of ragged columns; without repeats it is
            lowered to a smaller table's size.
        repeats: Whether an id may come twice in a bag.
    """
    if indices_per_lookup < 1:
        raise DataError(f"indices_per_lookup must be at least 1, not {indices_per_lookup}.")
    for column in schema.categorical:
        if not repeats and column.hotness and column.hotness > column.vocabulary_size:
            raise DataError(
                f"Column {column.name!r} takes {column.hotness} ids per lookup without repeats, "
                f"but its table has only {column.vocabulary_size}; allow repeats, take fewer ids, "
                "or let their number be random."
            )
