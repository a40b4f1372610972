"""Guesses the description of a table from its first rows, for people to look through."""

from __future__ import annotations

import collections
import dataclasses
import os
import statistics
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tfrecords.conversion import description_file, text_input, text_table
from tfrecords.conversion.column_guess import NUMBER, Guess, Sample, guess_column
from tfrecords.conversion.table_description import (
    CategoricalColumn,
    DenseColumn,
    LabelColumn,
    TableDescription,
)
from tfrecords.errors import DataError

_ROWS = 10_000
_TEXT_BYTES = 4 << 20
_TEXTS = (".csv", ".tsv", ".txt", ".data", ".dat", ".test", ".train", ".log")
_DELIMITERS = "\t,;|"
_NULLS = ("", "NA", "N/A", "NULL", "null", "None", "nan", "NaN", "\\N")
_LABELS = (
    "label",
    *("click", "clicked", "is_click", "is_clicked", "clk", "is_attributed"),
    *("target", "y", "conversion", "converted", "purchase", "purchased"),
    *("class", "classification", "outcome", "response"),
)
_RATINGS = ("rating", "score", "stars")
_POSITIVE = ("1", "yes", "y", "true", "t", "click", "clicked", "positive", "pos")


def guess(path: str, label_column: str | None = None) -> str:
    """A description in TOML, with what was seen of each column as comments.

    Args:
        path: A table whose name ends in .parquet, or in one of `_TEXTS` (each also .gz).
        label_column: The column that is the label; None to look for one.

    Raises:
        DataError: If it cannot be read, or no column looks like a label.
    """
    if not os.path.isfile(path):
        raise DataError(f"The file {path!r} does not exist or is no file.")
    name = path.lower().removesuffix(".gz")
    if name.endswith(".parquet"):
        form: dict[str, Any] = {"format": "parquet"}
        samples = _parquet_samples(path)
    elif name.endswith(_TEXTS):
        form, samples = _text_samples(path)
    else:
        raise DataError(
            f"The name of {path} must end in {', '.join(_TEXTS)} (each also .gz) or .parquet, so "
            "that its format is known."
        )
    rows = max((len(sample.values) for sample in samples), default=0)
    if not rows:
        raise DataError(f"{path} holds no row.")
    label = _label(path, samples, label_column)
    of_rows = next(_positive(s, label) for s in samples if s.name == label.column)
    guesses = {s.name: guess_column(s, of_rows) for s in samples if s.name != label.column}
    features, comments = _named_once(label, samples, guesses)
    description = TableDescription(
        **form,
        label=label,
        dense=tuple(feature for feature in features if isinstance(feature, DenseColumn)),
        categorical=tuple(f for f in features if isinstance(f, CategoricalColumn)),
        ignore=tuple(name for name, guessed in guesses.items() if not guessed.features),
    )
    why = [f"# {name!r} is ignored: {g.why}." for name, g in guesses.items() if not g.features]
    return (
        f"# Guessed from the first {rows:,} rows of {os.path.basename(path)}. Look through it: is "
        "each number an amount\n# (dense) or a name (categorical)? Is the label 1 where it should "
        "be? Are the columns in ignore of no use?\n"
        + "".join(f"{line}\n" for line in why)
        + description_file.to_toml(description, comments)
    )


def _named_once(
    label: LabelColumn, samples: list[Sample], guesses: dict[str, Guess]
) -> tuple[list[DenseColumn | CategoricalColumn], dict[str, str]]:
    """All features, none of which has the name of another, and what to say of each."""
    features: list[DenseColumn | CategoricalColumn] = []
    comments: dict[str, str] = {}
    for sample in samples:
        for feature in guesses[sample.name].features if sample.name in guesses else ():
            name = feature.name
            while name == label.column or name in comments:
                name += "_2"
            features.append(dataclasses.replace(feature, name=name))
            comments[name] = _comment(sample)
    return features, comments


def _text_samples(path: str) -> tuple[dict[str, Any], list[Sample]]:
    text = next(text_input.text_pieces(path, 0, _TEXT_BYTES, "table")).data
    try:
        # Only line feeds end a row: a text may hold U+2028 and the like.
        lines = text.decode("utf-8-sig").split("\n")[: _ROWS + 1]
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8 text: {error}.") from error
    lines = [line.removesuffix("\r") for line in lines if line]
    delimiter = max(_DELIMITERS, key=lines[0].count) if lines else ","
    if not lines or not lines[0].count(delimiter):
        raise DataError(f"The first line of {path} holds no comma, tab, semicolon or bar.")
    form: dict[str, Any] = {"format": "tsv" if delimiter == "\t" else "csv"}
    if delimiter not in "\t,":
        form["delimiter"] = delimiter
    as_described = TableDescription(
        **form, label=LabelColumn("label"), dense=(DenseColumn("feature", "feature"),)
    )
    fields = [text_table.split_line(line, as_described) for line in lines]
    if _is_header(fields[0], fields[1:]):
        names = fields.pop(0)
        text_table.check_names_differ(path, tuple(names))
    else:
        names = [f"column_{number + 1}" for number in range(len(fields[0]))]
        form["columns"] = tuple(names)
    fields = [row for row in fields if len(row) == len(names)]
    seen = {field for row in fields for field in row if field.strip() in _NULLS}
    form["null_values"] = (
        *(value for value in _NULLS if value in seen or value == ""),
        *sorted(seen.difference(_NULLS)),
    )
    samples = [
        Sample(name, [None if row[i] in form["null_values"] else row[i] for row in fields])
        for i, name in enumerate(names)
    ]
    return form, samples


def _is_header(first: list[str], rows: list[list[str]]) -> bool:
    """Whether the first line names the columns, and is no row like the others."""
    odd = [name for name in first if not name.strip() or NUMBER.fullmatch(name.strip())]
    if not odd:
        return True
    if len(set(first)) < len(first) or len(odd) == len(first):
        return False
    # Names may be numbers, and that of an index is empty; but a text above numbers is a name.
    for place, name in enumerate(first):
        below = [row[place].strip() for row in rows if len(row) > place]
        below = [value for value in below if value not in _NULLS]
        index = not name and below == [str(number) for number in range(len(below))]
        text = name not in odd and name.strip() not in _NULLS
        if below and (index or (text and all(map(NUMBER.fullmatch, below)))):
            return True
    return False


def _parquet_samples(path: str) -> list[Sample]:
    try:
        with pq.ParquetFile(path) as file:
            batch = next(file.iter_batches(_ROWS, use_threads=False), None)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}.") from error
    samples = []
    for name, array in zip(batch.schema.names, batch.columns, strict=True) if batch else ():
        is_list = pa.types.is_list(array.type) or pa.types.is_large_list(array.type)
        values = array.to_pylist()
        samples.append(Sample(name, values if is_list else [_text(v) for v in values], is_list))
    return samples


def _text(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return str(int(value))
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _label(path: str, samples: list[Sample], wanted: str | None) -> LabelColumn:
    by_name = {s.name.strip().lower(): s for s in reversed(samples) if not s.is_list}
    columns = ", ".join(sample.name[:60] for sample in samples[:30])
    columns += ", ..." * (len(samples) > 30)
    if wanted is not None:
        sample = by_name.get(wanted.strip().lower())
        if sample is None:
            raise DataError(f"{path} has no column {wanted!r} of single values; it has {columns}.")
        label = _as_label(sample)
        if label is None:
            raise DataError(
                f"The column {wanted!r} of {path} cannot be a label: it holds {_shown(sample)}, "
                "where numbers from 0 to 1, numbers of which some are larger than others, or two "
                "texts are needed."
            )
        return label
    for name in (*_LABELS, *_RATINGS):
        if name in by_name:
            label = _as_label(by_name[name])
            if label is not None:
                return label
    for sample in (s for s in samples if not s.is_list):
        if sample.all_match(NUMBER) and set(map(float, sample.given)) == {0.0, 1.0}:
            return LabelColumn(sample.name)
    raise DataError(
        f"No column of {path} looks like a label, which is a column of 0 and 1 or one called "
        f"{', '.join(_LABELS)}, {', '.join(_RATINGS)}. --label=COLUMN says which one it is. Its "
        f"columns are {columns}."
    )


def _as_label(sample: Sample) -> LabelColumn | None:
    if sample.all_match(NUMBER):
        numbers = [float(value) for value in sample.given]
        if 0 <= min(numbers) and max(numbers) <= 1:
            return LabelColumn(sample.name)
        different = sorted(set(numbers))
        if len(different) == 1:
            return None
        # The smallest as a threshold would make all labels 1.
        threshold = max(statistics.median_high(numbers), different[1])
        return LabelColumn(sample.name, positive_from=threshold)
    counts = collections.Counter(sample.given).most_common()
    if len(counts) != 2:
        return None
    positive = [value for value, _ in counts if value.strip().lower() in _POSITIVE]
    if len(positive) != 1:
        # What is looked for is the rarer one.
        positive = [counts[1][0]]
    negative = tuple(value for value, _ in counts if value != positive[0])
    return LabelColumn(sample.name, positive_values=tuple(positive), negative_values=negative)


def _positive(sample: Sample, label: LabelColumn) -> Sequence[bool | None]:
    """Whether the label of each row is positive."""

    def of(value: str) -> bool:
        if label.positive_values:
            return value in label.positive_values
        return float(value) >= (0.5 if label.positive_from is None else label.positive_from)

    return [None if value is None else of(value) for value in sample.values]


def _shown(sample: Sample) -> str:
    counts = collections.Counter(sample.given).most_common(4)
    listed = [repr(value[:40]) for value, _ in counts[:3]] + ["..."] * (len(counts) > 3)
    return ", ".join(listed) or "nothing"


def _comment(sample: Sample) -> str:
    if sample.is_list:
        return "lists"
    given = sample.given
    counted = collections.Counter(given).most_common(1)
    comment = f"{len(set(given)):,} different values"
    if counted:
        comment += f", the most frequent {counted[0][0][:40]!r}"
    missing = len(sample.values) - len(given)
    return comment + (f"; missing in {missing:,} rows" if missing else "")
