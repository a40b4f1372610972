"""Files with one `tf.train.Example` per row: the form in which others exchange click logs.

```
python -m tfrecords.examples export --dataset=DIR --output_dir=DIR [--gzip]
python -m tfrecords.examples import --dataset=DIR --output_dir=DIR [--schema=FILE]
```

The label and each dense column are features of one float, each categorical column is an
`int64_list` of its ids. Reading also takes whole numbers (`int64_list`) for the label and dense
columns. Files are called `SPLIT-00000-of-00003.tfrecord`, with `.gz` behind it if compressed, and
`schema.json` beside them holds what `Schema.to_json` says. Reading such files in training is some
twenty times slower than reading blocks: convert them once.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from typing import IO, Any

import numpy as np
import tensorflow as tf
from absl import app, flags

from tfrecords import block, entry_point, json_values, odd_labels
from tfrecords.dataset_info import DatasetInfo
from tfrecords.errors import DataError
from tfrecords.file_kind import check_file
from tfrecords.folder import WholeFolder
from tfrecords.reader import RecordSource
from tfrecords.record_format import frame, read_records
from tfrecords.schema import Schema
from tfrecords.unchanged import FileState, check_unchanged
from tfrecords.writer import DatasetWriter

SCHEMA_FILE = "schema.json"
ROWS_PER_FILE = 1_000_000
_ROWS_AT_ONCE = 8192
_FILE = re.compile(r"([^\W\d]\w*)-\d{5}-of-\d{5}\.tfrecord(\.gz)?")


def export_examples(
    source: RecordSource,
    output_dir: str,
    rows_per_file: int = ROWS_PER_FILE,
    compress: bool = False,
) -> None:
    """Writes all splits of a data set as one Example per row, in file order.

    Args:
        source: The data set.
        output_dir: A local folder: missing, empty, or made by this function before. It appears when
            all of it is written.
        rows_per_file: Rows in each file but a split's last.
        compress: Whether to compress with gzip.

    Raises:
        DataError: If `rows_per_file` is below 1, a file of the data set is damaged, the folder
            cannot be used or the disk is full.
    """
    if rows_per_file < 1:
        raise DataError(f"rows_per_file must be at least 1, not {rows_per_file}.")
    with WholeFolder(output_dir, SCHEMA_FILE, "folder of Examples") as folder:
        for split in source.info.splits:
            files = -(-source.rows(split) // rows_per_file)
            rows = _serialized_rows(source, split)
            for number in range(files):
                name = f"{split}-{number:05d}-of-{files:05d}.tfrecord{'.gz' * compress}"
                with _opened(os.path.join(folder.work, name), "wb") as file:
                    for _, data in zip(range(rows_per_file), rows, strict=False):
                        header, footer = frame(data)
                        file.write(header + data + footer)
        with open(os.path.join(folder.work, SCHEMA_FILE), "w", encoding="utf-8") as file:
            json.dump(source.schema.to_json(), file, indent=1)
        folder.commit()


def read_examples(path: str, schema: Schema) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Yields the rows of one file, some thousands at a time, as `DatasetWriter.write` takes them.

    Args:
        path: The file; compressed if its name ends in ".gz".
        schema: The columns; features that it does not name are left out.

    Raises:
        DataError: If the file cannot be read, a record is broken, is no Example of these columns,
            or holds a value that is not allowed; names file and record.
    """
    record = 0
    try:
        with _opened(path, "rb") as file:
            waiting: list[bytes] = []
            size = None if path.endswith(".gz") else os.path.getsize(path)
            for _, data in read_records(file, size):
                waiting.append(data)
                record += 1
                if len(waiting) == _ROWS_AT_ONCE:
                    yield _columns(path, schema, waiting, record - len(waiting))
                    waiting = []
    except DataError:  # a ValueError too, of a record that is whole
        raise
    except (ValueError, EOFError, zlib.error) as error:
        if not record:
            check_file(path)
        raise DataError(f"Record {record} of {path} is broken: {error}.") from error
    except OSError as error:
        if not record:
            check_file(path)
        raise DataError(
            f"The file {path} cannot be read after record {record}: {error}."
        ) from error
    if waiting:
        yield _columns(path, schema, waiting, record - len(waiting))


def import_examples(
    input_dir: str,
    output_dir: str,
    schema: Schema | None = None,
    on_odd_labels: str = odd_labels.FAIL,
) -> DatasetInfo:
    """Converts files of one Example per row to a data set, whole or not at all.

    Args:
        input_dir: The local folder with the files.
        output_dir: As for `DatasetWriter`.
        schema: The columns; None for those of the folder's schema.json.
        on_odd_labels: "fail" or "accept", where all labels of a split are alike.

    Raises:
        DataError: As `read_examples`; or if there is no schema, no file, or a split lacks one of
            the files that its files' names announce, or a file changes while it is read, or all
            labels of a split are alike.
    """
    schema = schema or load_schema(os.path.join(input_dir, SCHEMA_FILE))
    paths = _paths(input_dir)
    made = {"source": "tfrecords.examples", "files": [name for _, name in paths]}
    before = [FileState.of(os.path.join(input_dir, name)) for _, name in paths]
    of_splits: dict[str, odd_labels.LabelRange] = {}
    with DatasetWriter(output_dir, schema, made) as writer:
        try:
            for split, name in paths:
                for features, label in read_examples(os.path.join(input_dir, name), schema):
                    writer.write(split, features, label)
                    of_splits.setdefault(split, odd_labels.LabelRange()).add(label)
        finally:
            check_unchanged(before)
        for split in sorted({split for split, _ in paths} - set(of_splits)):
            raise DataError(f"The files of the split {split!r} in {input_dir} hold no record.")
        if on_odd_labels == odd_labels.FAIL:
            for split, found in of_splits.items():
                found.check(split)
    return DatasetInfo.load(output_dir)


def load_schema(path: str) -> Schema:
    """Reads a schema from a JSON file of its own, or from a data set's `dataset.json`.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            value = json_values.parse(file.read(), path, "Export the data set again.")
        return Schema.from_json(value.get("schema", value) if isinstance(value, dict) else value)
    except OSError as error:
        raise DataError(f"The schema {path} cannot be read: {error.strerror}.") from error
    except (ValueError, DataError) as error:
        raise DataError(f"{path} is no schema: {error}") from error


@contextlib.contextmanager
def _opened(path: str, mode: str) -> Iterator[IO[bytes]]:
    if not path.endswith(".gz"):
        with open(path, mode) as plain:
            yield plain
        return
    # No time and no name in the header: equal rows give equal bytes.
    with open(path, mode) as raw, gzip.GzipFile("", mode, 6, raw, mtime=0) as packed:
        yield packed  # type: ignore[misc]


def _batches(source: RecordSource, split: str) -> Iterator[Any]:
    try:
        yield from source.batches(split, _ROWS_AT_ONCE)
    except tf.errors.OpError as error:
        raise DataError(source.explain(error)) from error


def _serialized_rows(source: RecordSource, split: str) -> Iterator[bytes]:
    schema = source.schema
    for features, label in _batches(source, split):
        lists = {schema.label: label.numpy().tolist()}
        if schema.dense:
            columns = features[block.DENSE].numpy().T.tolist()
            lists.update(zip(schema.dense, columns, strict=True))
        for column in schema.categorical:
            ids = features[column.name]
            lists[column.name] = ids.to_list() if column.hotness is None else ids.numpy().tolist()
        for row in range(len(lists[schema.label])):
            example = tf.train.Example()
            for name in (schema.label, *schema.dense):
                example.features.feature[name].float_list.value.append(lists[name][row])
            for name in schema.categorical_names:
                ids = lists[name][row]
                example.features.feature[name].int64_list.value.extend(
                    ids if isinstance(ids, list) else [ids]
                )
            yield example.SerializeToString(deterministic=True)


def _columns(
    path: str, schema: Schema, rows: list[bytes], first: int
) -> tuple[dict[str, Any], np.ndarray]:
    """The columns of serialized rows, checked; `first` is the number of the first of them."""
    try:
        columns = _parsed(schema, rows)
    except tf.errors.InvalidArgumentError:
        for number, row in enumerate(rows):
            try:
                _parsed(schema, [row])
            except tf.errors.InvalidArgumentError as error:
                raise DataError(
                    f"Record {first + number} of {path} is no Example of the schema's columns: "
                    f"{error.message}"
                ) from error
        raise
    try:
        block.check(schema, columns, first)
    except DataError as error:
        raise DataError(f"{path} holds a value that is not allowed (row = record): {error}") from (
            error
        )
    return block.features(schema, columns)


def _parsed(schema: Schema, rows: list[bytes]) -> dict[str, np.ndarray]:
    # Others write numbers as int64 where they are whole; the first row shows which.
    first = tf.train.Example()
    with contextlib.suppress(Exception):  # a broken one is told by parse_example below
        first.ParseFromString(rows[0])
    spec: dict[str, Any] = {}
    for name in (schema.label, *schema.dense):
        whole = name in first.features.feature and (
            first.features.feature[name].WhichOneof("kind") == "int64_list"
        )
        spec[name] = tf.io.FixedLenFeature([], tf.int64 if whole else tf.float32)
    for column in schema.categorical:
        spec[column.name] = (
            tf.io.RaggedFeature(tf.int64)
            if column.hotness is None
            else tf.io.FixedLenFeature([] if column.hotness == 1 else [column.hotness], tf.int64)
        )
    parsed = tf.io.parse_example(rows, spec)
    columns = {schema.label: parsed[schema.label].numpy().astype(np.float32)}
    if schema.dense:
        dense = [parsed[name].numpy().astype(np.float32) for name in schema.dense]
        columns[block.DENSE] = np.stack(dense, axis=1)
    for column in schema.categorical:
        if column.hotness is None:
            columns[column.name] = parsed[column.name].values.numpy()
            lengths = parsed[column.name].row_lengths().numpy()
            columns[column.name + block.LENGTHS] = lengths.astype(np.int32)
        else:
            columns[column.name] = parsed[column.name].numpy()
    return columns


def _paths(input_dir: str) -> list[tuple[str, str]]:
    """(split, name) of each file, in order."""
    try:
        names = sorted(os.listdir(input_dir))
    except OSError as error:
        raise DataError(f"The folder {input_dir!r} cannot be read: {error.strerror}.") from error
    found = [(match[1], name) for name in names if (match := _FILE.fullmatch(name))]
    if not found:
        raise DataError(
            f"The folder {input_dir!r} has no file with a name such as "
            "train-00000-of-00001.tfrecord or train-00000-of-00001.tfrecord.gz."
        )
    for split in {split for split, _ in found}:
        mine = [name.removesuffix(".gz") for other, name in found if other == split]
        count = int(mine[0].removesuffix(".tfrecord").rsplit("-", 1)[1])
        expected = [f"{split}-{number:05d}-of-{count:05d}.tfrecord" for number in range(count)]
        if mine != expected:
            raise DataError(
                f"The split {split!r} of {input_dir!r} needs the files {expected[0]} to "
                f"{expected[-1]}, each once; it has {', '.join(mine[:5])}."
            )
    return found


def _define_flags() -> None:
    # Not at import: this module is a library too.
    flags.DEFINE_string("dataset", None, "Folder to read.", required=True)
    flags.DEFINE_string("output_dir", None, "Folder to write.", required=True)
    flags.DEFINE_string("schema", None, "import: JSON file; default: schema.json in --dataset.")
    flags.DEFINE_enum(
        "on_odd_labels",
        odd_labels.FAIL,
        [odd_labels.FAIL, odd_labels.ACCEPT],
        "import: what to do where all labels of a split are alike.",
    )
    flags.DEFINE_bool("gzip", False, "export: compress the files.")
    flags.DEFINE_integer(
        "rows_per_file", ROWS_PER_FILE, "export: rows in a file.", lower_bound=1, upper_bound=2**62
    )


def main(argv: Sequence[str]) -> None:
    """Exports or imports, as the command line says."""
    values = flags.FLAGS
    if len(argv) != 2 or argv[1] not in ("export", "import"):
        raise app.UsageError("Say which one: python -m tfrecords.examples export|import")
    if argv[1] == "export":
        source = RecordSource(values.dataset)
        export_examples(source, values.output_dir, values.rows_per_file, values.gzip)
    else:
        schema = load_schema(values.schema) if values.schema else None
        import_examples(values.dataset, values.output_dir, schema, values.on_odd_labels)


if __name__ == "__main__":
    _define_flags()
    entry_point.run(main)
