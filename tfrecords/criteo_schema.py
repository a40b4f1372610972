"""The columns of the Criteo click logs."""

from __future__ import annotations

from tfrecords.errors import DataError
from tfrecords.schema import CategoricalColumn, Schema

DENSE_NAMES = tuple(f"I{i}" for i in range(1, 14))
CATEGORICAL_NAMES = tuple(f"C{i}" for i in range(1, 27))

# Ids per column of the Criteo Kaggle data (tools/visualize.py of facebookresearch/dlrm).
KAGGLE_VOCABULARY_SIZES = (
    *(1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194),
    *(27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572),
)


def criteo_shaped(max_vocabulary: int | None = None, ids_per_lookup: int = 1) -> Schema:
    """A schema with Criteo's columns: 13 dense, 26 categorical of the Kaggle data's sizes.

    Args:
        max_vocabulary: Upper bound for the sizes; None for the sizes as they are.
        ids_per_lookup: Ids per row and column.

    Raises:
        DataError: If an argument is below 1.
    """
    if max_vocabulary is not None and max_vocabulary < 1:
        raise DataError(f"max_vocabulary must be at least 1, not {max_vocabulary}.")
    sizes = [min(size, max_vocabulary or size) for size in KAGGLE_VOCABULARY_SIZES]
    columns = [
        CategoricalColumn(name, size, hotness=ids_per_lookup)
        for name, size in zip(CATEGORICAL_NAMES, sizes, strict=True)
    ]
    return Schema(dense=DENSE_NAMES, categorical=tuple(columns))
