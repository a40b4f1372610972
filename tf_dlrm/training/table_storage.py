"""How each table of a data set is stored, from the options."""

from __future__ import annotations

from collections.abc import Sequence

from tf_dlrm.embeddings.storage import (
    MixedDimension,
    MultipleHashing,
    QuotientRemainder,
    Storage,
    WeightedRows,
    mixed_dimensions,
)
from tf_dlrm.training.options.model import ModelOptions


def storages(options: ModelOptions, rows: Sequence[int], dim: int) -> list[Storage | None]:
    """Returns the storage of each table, which has so many rows, and `dim` columns."""
    found: list[Storage | None] = []
    widths = mixed_dimensions(rows, dim, options.mixed_dimensions_temperature) if rows else []
    for count, width in zip(rows, widths, strict=True):
        storage: Storage | None = None
        if options.hash_buckets:
            if count > options.hash_buckets:
                storage = MultipleHashing(options.hash_buckets, options.hash_functions)
        elif options.table_storage == "weighted_rows":
            storage = WeightedRows()
        elif count >= options.storage_from_rows:
            if options.table_storage == "quotient_remainder":
                storage = QuotientRemainder(
                    options.quotient_remainder_collisions, options.quotient_remainder_operation
                )
            elif options.table_storage == "mixed_dimensions" and width < dim:
                storage = MixedDimension(width)
        found.append(storage)
    return found
