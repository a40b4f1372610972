"""From the ids of a data set back to the values that they stand for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, cast

import numpy as np

from tfrecords import block, files
from tfrecords.conversion.how_it_was_made import table_of
from tfrecords.conversion.known_vocabularies import known_vocabulary
from tfrecords.dataset_info import DatasetInfo
from tfrecords.errors import DataError
from tfrecords.record_format import read_records


def values(data_dir: str, info: DatasetInfo, name: str) -> Iterator[str]:
    """Yields a line for each id of a column: id, value, and its count in the rows for training.

    Args:
        data_dir: The folder.
        info: Its description.
        name: Name of the column.

    Raises:
        DataError: If the column has no vocabulary, or its values cannot be told from it.
    """
    known = known_vocabulary(data_dir, info, name)
    try:
        table = table_of(info.how_it_was_made["format"])
        kind = next(c.meaning for c in table.categorical if c.name == name)
    except (LookupError, TypeError, ValueError, StopIteration) as error:
        raise DataError(
            f"The data set {data_dir} does not say what the values of {name!r} are: it was not "
            "converted by tfrecords.convert or tfrecords.convert_criteo."
        ) from error
    counts = _counts(data_dir, info, name, known.info.reserved + len(known.keys))
    for id in range(known.info.reserved):
        yield f"{id}\t(out of vocabulary)\t{counts[id]}"
    for id, key in enumerate(known.keys, known.info.reserved):
        text = kind.text_of(key)
        if text is None:
            raise DataError(
                f"The vocabulary of {name!r} holds fingerprints of texts, from which the texts "
                "cannot be told; columns of kind = 'integer' and 'hexadecimal' can be shown."
            )
        yield f"{id}\t{text.decode('utf-8', 'replace')}\t{counts[id]}"


def _counts(data_dir: str, info: DatasetInfo, name: str, ids: int) -> np.ndarray:
    """How often each id is in the split "train", int64 `[ids]`."""
    counts: np.ndarray = np.zeros(ids, np.int64)
    for file in info.splits["train"].files if "train" in info.splits else ():
        path = files.join(data_dir, file.path)
        with files.explained(path), files.open_file(path) as stream:
            for _, data in read_records(cast(BinaryIO, stream)):
                found = block.decode(info.schema, data)[name]
                counts += np.bincount(found.reshape(-1), minlength=ids)
    return counts
