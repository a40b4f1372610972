"""Data sets in a few lines of Python: from a table in memory, and to a `tf.data.Dataset`."""

from __future__ import annotations

import dataclasses
import io
import os
import tempfile
from typing import TYPE_CHECKING, Any

from tfrecords.errors import DataError

if TYPE_CHECKING:
    from tfrecords.conversion.table_description import TableDescription
    from tfrecords.dataset_info import DatasetInfo
    from tfrecords.reader import RecordSource

_ROW_GROUP = 1 << 16


def open(data_dir: str) -> RecordSource:
    """Opens a data set folder.

    Args:
        data_dir: The folder, as the converters write it; also `s3://` and the like.

    Raises:
        DataError: If it is no whole data set.

    Example:
        ```python
        data = tfrecords.open("clicks")
        model = DLRM(DLRMConfig.for_dataset(data, 16, Adagrad(0.02)))
        model.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True))
        model.fit(data.dataset("train", 2048, shuffle_seed=1))
        ```
    """
    from tfrecords.reader import RecordSource

    return RecordSource(data_dir)


def write(
    table: Any,
    description: TableDescription | str,
    output_dir: str,
    *,
    evaluation: Any = None,
    test: Any = None,
    **options: Any,
) -> DatasetInfo:
    """Converts a table in memory to a data set folder, as `tfrecords.convert` does with files.

    Args:
        table: Anything that speaks Arrow's C stream (`__arrow_c_stream__`): a DataFrame of pandas
            or polars, a `datasets.Dataset`, a `pyarrow.Table` or `RecordBatchReader`.
        description: What its columns are: a `TableDescription`, the path of a description, or the
            name of one that comes with the package. How a text file is written has no part in it.
        output_dir: The folder to write.
        evaluation: A table of the same columns, the split "evaluation"; None: as `split` says.
        test: One for the split "test".
        **options: Those of `tfrecords.conversion.options.Options`, such as `min_count=2`,
            `split="0.1"` or `shuffle="total"`.

    Returns:
        What was written.

    Raises:
        DataError: If the table cannot be converted; rows are counted from 1.
        TypeError: If a table speaks no Arrow, or there is no such option.
    """
    from tfrecords.conversion import description_file
    from tfrecords.conversion.convert import convert
    from tfrecords.conversion.options import FILES, Options
    from tfrecords.conversion.tabular import TabularFormat
    from tfrecords.progress import Progress

    if isinstance(description, str):
        description = description_file.load(description)
    described = dataclasses.replace(
        description, format="parquet", columns=(), delimiter=None, quoting=None, strip=False
    )
    held_out = (evaluation is not None, test is not None)
    if any(held_out):
        options = {"split": FILES, "held_out_files": tuple(map(int, held_out)), **options}
    how = Options(**options)
    with tempfile.TemporaryDirectory(prefix="tfrecords-") as folder:
        paths = []
        for name, part in (("table", table), ("evaluation", evaluation), ("test", test)):
            if part is not None:
                paths.append(os.path.join(folder, f"{name}.parquet"))
                _write_parquet(part, paths[-1], name)
        return convert(paths, output_dir, TabularFormat(described), how, Progress(io.StringIO()))


def _write_parquet(table: Any, path: str, name: str) -> None:
    """Writes a table as Parquet, a batch at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not hasattr(table, "__arrow_c_stream__"):
        raise TypeError(
            f"{name} must speak Arrow's C stream (__arrow_c_stream__), as a DataFrame of pandas or "
            f"polars and a pyarrow.Table do, but is a {type(table).__name__}."
        )
    try:
        with pa.RecordBatchReader.from_stream(table) as batches:
            with pq.ParquetWriter(path, batches.schema) as file:
                for batch in batches:
                    if batch.num_rows:
                        file.write_batch(batch, _ROW_GROUP)
    except pa.ArrowException as error:
        raise DataError(f"The {name} cannot be read as Arrow's columns: {error}.") from error
