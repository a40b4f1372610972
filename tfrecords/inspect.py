"""Shows a data set folder and verifies it: `python -m tfrecords.inspect DIR`.

`--html=FILE` also draws it: the label rate over the rows, and for each column how frequent its
values are and which caches its ids need, on one page that needs no server and no network.

Exit code 1, and a sentence on standard error that names file and record, if anything is wrong.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from typing import BinaryIO, cast

import numpy as np
from absl import app, flags

from tfrecords import block, entry_point, files, verify
from tfrecords.dataset_info import DatasetInfo
from tfrecords.progress import Progress
from tfrecords.record_format import read_records
from tfrecords.schema import Schema
from tfrecords.traces.whole_file import write_whole
from tfrecords.values import values

_ROWS = flags.DEFINE_integer(
    "rows", 3, "How many rows of each split to show.", lower_bound=0, upper_bound=2**62
)
_VALUES = flags.DEFINE_string(
    "values",
    None,
    "Instead of the rows, show the value of each id of this column, and its count in the rows "
    "for training.",
)
_HTML = flags.DEFINE_string("html", None, "Draw the data set to this page.")
_HTML_ACCESSES = flags.DEFINE_integer(
    "html_accesses",
    1_000_000,
    "How many ids of each column, its first, to make miss-ratio curves from.",
    lower_bound=1,
    upper_bound=2**62,
)


def describe(data_dir: str, info: DatasetInfo, rows: int) -> Iterator[str]:
    """Yields lines that describe a data set.

    Args:
        data_dir: The folder.
        info: Its description.
        rows: How many rows of each split to show.
    """
    schema = info.schema
    yield f"{data_dir}  (fingerprint {info.fingerprint})"
    yield f"label: {schema.label}"
    yield f"dense: {', '.join(schema.dense) or 'none'}"
    yield f"categorical: {len(schema.categorical)} columns"
    for column in schema.categorical:
        hotness = "any number of ids" if column.hotness is None else f"{column.hotness} a row"
        oov = column.out_of_vocabulary
        out = "" if oov is None else f", out of vocabulary: {oov}"
        yield f"  {column.name}: {column.vocabulary_size:,} ids, {hotness}{out}"
    yield f"how it was made: {json.dumps(info.how_it_was_made, ensure_ascii=False)}"
    for name, split in info.splits.items():
        rate = f"{split.label_sum / split.rows:.6f}" if split.rows else "none"
        records = sum(len(file.offsets) for file in split.files)
        size = sum(file.size for file in split.files)
        yield (
            f"split {name}: {split.rows:,} rows, label rate {rate}, {len(split.files)} files, "
            f"{records:,} records of {split.rows_per_record:,} rows, {size:,} bytes"
        )
        if split.files and rows:
            path = files.join(data_dir, split.files[0].path)
            with files.explained(path), files.open_file(path) as stream:
                _, data = next(read_records(cast(BinaryIO, stream)))
            yield from _shown(schema, block.decode(schema, data), rows)


def _shown(schema: Schema, columns: dict[str, np.ndarray], rows: int) -> Iterator[str]:
    for row in range(min(rows, len(columns[schema.label]))):
        parts = [f"{schema.label}={columns[schema.label][row]:g}"]
        for index, name in enumerate(schema.dense):
            parts.append(f"{name}={columns[block.DENSE][row, index]:.4g}")
        for column in schema.categorical:
            ids = columns[column.name]
            if column.hotness is None:
                lengths = columns[column.name + block.LENGTHS]
                start = int(lengths[:row].sum())
                shown = ids[start : start + int(lengths[row])].tolist()
            else:
                shown = ids[row].tolist()
            parts.append(f"{column.name}={shown}")
        yield f"  row {row}: {' '.join(parts)}"


def _draw(path: str, data_dir: str, info: DatasetInfo, lines: Sequence[str]) -> None:
    # Here, since matplotlib takes longer to import than a small data set to verify.
    from tfrecords.report import page, statistics

    progress = Progress()
    found = statistics.gather(data_dir, info, progress, _HTML_ACCESSES.value)
    title = files.absolute(data_dir).rstrip("/").rsplit("/", 1)[-1]
    write_whole(path, page.page(title, info, found, "\n".join(lines)))
    progress.say(f"Wrote {path}.")


def main(argv: Sequence[str]) -> None:
    """Describes and verifies the folder that is named on the command line."""
    if len(argv) != 2:
        raise app.UsageError("Name one data set folder: python -m tfrecords.inspect DIR")
    data_dir = argv[1]
    info = DatasetInfo.load_description(data_dir)
    problems = list(verify.problems(data_dir, info))
    if problems:
        sys.exit("\n".join(f"error: {problem}" for problem in problems))
    if _VALUES.value:
        for line in values(data_dir, info, _VALUES.value):
            sys.stdout.write(line + "\n")
        return
    lines = list(describe(data_dir, info, _ROWS.value))
    sys.stdout.write("\n".join(lines) + "\n")
    entry_point.flush_output()  # before seconds of drawing
    if _HTML.value:
        _draw(_HTML.value, data_dir, info, lines)
    sys.stdout.write("All checksums, row counts and values are as they should be.\n")


if __name__ == "__main__":
    entry_point.run(main)
