"""The flag that says what a table holds; for entry points only."""

from __future__ import annotations

import os

from absl import flags

from tfrecords.conversion import description_file
from tfrecords.conversion.tabular import TabularFormat

SCHEMA = flags.DEFINE_string(
    "schema",
    None,
    "The description of the table: a TOML file, or one that comes with the package "
    f"({', '.join(description_file.built_in())}).",
)


def make_format(piece_bytes: int | None) -> TabularFormat:
    """The format that `--schema` describes.

    Args:
        piece_bytes: About how many bytes of text to parse at once; None for the default.

    Raises:
        DataError: If the description cannot be used.
    """
    described = SCHEMA.value or ""
    name = os.path.basename(described).removesuffix(".toml")
    return TabularFormat(description_file.load(described), name, piece_bytes)
