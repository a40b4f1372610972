"""Guesses the description of a table from its first rows, for people to look through."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import os
import re
import statistics
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tfrecords.conversion import description_file, text_input, text_table
from tfrecords.conversion.table_description import (
    ISO,
    CategoricalColumn,
    DenseColumn,
    LabelColumn,
    TableDescription,
)
from tfrecords.errors import DataError

_ROWS = 10_000
_TEXT_BYTES = 4 << 20
_DELIMITERS = "\t,;|"
_SEPARATORS = ("|", ";", ",", " ")
_NULLS = ("", "NA", "N/A", "NULL", "null", "None", "nan", "NaN", "\\N")
_LABELS = ("label", "click", "clicked", "is_click", "target", "y", "conversion", "converted")
_RATINGS = ("rating", "score", "stars")
_POSITIVE = ("1", "yes", "y", "true", "t", "click", "clicked", "positive", "pos")
_WHOLE = re.compile(r"-?[0-9]+")
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
# Whole numbers of few different values, or called like one of these, are names rather than amounts.
_NAMES = re.compile(r"(^|_)(id|code|type|category|zip|zipcode|region)$|[a-z]I[dD]$")
_FEW = 50


@dataclasses.dataclass(frozen=True)
class _Sample:
    """The first values of a column: text, lists of text, or None where missing."""

    name: str
    values: list[Any]
    is_list: bool = False

    @property
    def given(self) -> list[Any]:
        return [value for value in self.values if value is not None]

    def all_match(self, pattern: re.Pattern[str]) -> bool:
        return bool(self.given) and all(pattern.fullmatch(value) for value in self.given)


def guess(path: str) -> str:
    """A description in TOML, with what was seen of each column as comments.

    Args:
        path: A table whose name ends in .csv, .tsv, .txt (each also .gz) or .parquet.

    Raises:
        DataError: If it cannot be read, or no column looks like a label.
    """
    if not os.path.isfile(path):
        raise DataError(f"The file {path!r} does not exist or is no file.")
    name = path.lower().removesuffix(".gz")
    if name.endswith(".parquet"):
        form: dict[str, Any] = {"format": "parquet"}
        samples = _parquet_samples(path)
    elif name.endswith((".csv", ".tsv", ".txt")):
        form, samples = _text_samples(path)
    else:
        raise DataError(
            f"The name of {path} must end in .csv, .tsv, .txt (each also .gz) or .parquet, so that "
            "its format is known."
        )
    rows = max((len(sample.values) for sample in samples), default=0)
    if not rows:
        raise DataError(f"{path} holds no row.")
    label = _label(path, samples)
    dense: list[DenseColumn] = []
    categorical: list[CategoricalColumn] = []
    ignore: list[str] = []
    comments: dict[str, str] = {}
    for sample in samples:
        if sample.name == label.column:
            continue
        comment = _comment(sample)
        features = _features(sample)
        if not features:
            ignore.append(sample.name)
        for feature in features:
            if isinstance(feature, DenseColumn):
                dense.append(feature)
            else:
                categorical.append(feature)
            comments[feature.name] = comment
    description = TableDescription(
        **form,
        label=label,
        dense=tuple(dense),
        categorical=tuple(categorical),
        ignore=tuple(ignore),
    )
    return (
        f"# Guessed from the first {rows:,} rows of {os.path.basename(path)}. Look through it: is "
        "each number an amount\n# (dense) or a name (categorical)? Are the columns in ignore of no "
        "use?\n" + description_file.to_toml(description, comments)
    )


def _text_samples(path: str) -> tuple[dict[str, Any], list[_Sample]]:
    text = next(text_input.text_pieces(path, 0, _TEXT_BYTES, "table")).data
    try:
        lines = text.decode("utf-8-sig").splitlines()[: _ROWS + 1]
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8 text: {error}.") from error
    delimiter = max(_DELIMITERS, key=lines[0].count)
    if not lines[0].count(delimiter):
        raise DataError(f"The first line of {path} holds no comma, tab, semicolon or bar.")
    form: dict[str, Any] = {"format": "tsv" if delimiter == "\t" else "csv"}
    if delimiter not in "\t,":
        form["delimiter"] = delimiter
    as_described = TableDescription(
        **form, label=LabelColumn("label"), dense=(DenseColumn("feature", "feature"),)
    )
    fields = [text_table.split_line(line, as_described) for line in lines]
    if any(_NUMBER.fullmatch(field) or not field for field in fields[0]):
        names = [f"column_{number + 1}" for number in range(len(fields[0]))]
        form["columns"] = tuple(names)
    else:
        names = fields.pop(0)
    fields = [row for row in fields if len(row) == len(names)]
    seen = {field for row in fields for field in row} & set(_NULLS)
    form["null_values"] = tuple(value for value in _NULLS if value in seen or value == "")
    samples = [
        _Sample(name, [None if row[i] in form["null_values"] else row[i] for row in fields])
        for i, name in enumerate(names)
    ]
    return form, samples


def _parquet_samples(path: str) -> list[_Sample]:
    try:
        with pq.ParquetFile(path) as file:
            batch = next(file.iter_batches(_ROWS, use_threads=False), None)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}.") from error
    samples = []
    for name, array in zip(batch.schema.names, batch.columns, strict=True) if batch else ():
        is_list = pa.types.is_list(array.type) or pa.types.is_large_list(array.type)
        values = array.to_pylist()
        samples.append(_Sample(name, values if is_list else [_text(v) for v in values], is_list))
    return samples


def _text(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return str(int(value))
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _label(path: str, samples: list[_Sample]) -> LabelColumn:
    by_name = {sample.name.lower(): sample for sample in samples if not sample.is_list}
    for name in (*_LABELS, *_RATINGS):
        if name in by_name:
            label = _as_label(by_name[name])
            if label is not None:
                return label
    for sample in by_name.values():
        if sample.given and set(sample.given) <= {"0", "1"}:
            return LabelColumn(sample.name)
    raise DataError(
        f"No column of {path} looks like a label: none holds only 0 and 1, or is called "
        f"{', '.join((*_LABELS, *_RATINGS))}. Its columns are "
        f"{', '.join(sample.name for sample in samples)}."
    )


def _as_label(sample: _Sample) -> LabelColumn | None:
    values = set(sample.given)
    if sample.all_match(_NUMBER):
        numbers = [float(value) for value in sample.given]
        if 0 <= min(numbers) and max(numbers) <= 1:
            return LabelColumn(sample.name)
        return LabelColumn(sample.name, positive_from=statistics.median_high(numbers))
    positive = [value for value in sorted(values) if value.lower() in _POSITIVE]
    if len(values) == 2 and len(positive) == 1:
        return LabelColumn(
            sample.name,
            positive_values=tuple(positive),
            negative_values=tuple(values - set(positive)),
        )
    return None


def _features(sample: _Sample) -> list[DenseColumn | CategoricalColumn]:
    """The features to make of a column; none where it says nothing."""
    column, given = sample.name, sample.given
    name = re.sub(r"^\.+", "", column).replace("/", "_") or "unnamed"
    name = "dense_" if name == "dense" else name
    if sample.is_list:
        return [_list(name, column, given)]
    different = len(set(given))
    whole = sample.all_match(_WHOLE)
    number = whole or sample.all_match(_NUMBER)
    if different <= 1:
        return []
    named = _NAMES.search(column) is not None
    if different == len(given) > 100 and (not number or (whole and named)):
        # Another one in every row.
        return []
    missing = 0.0 if len(given) < len(sample.values) else None
    if number and not (whole and (different <= _FEW or named)):
        numbers = [float(value) for value in given]
        log = min(numbers) >= 0 and max(numbers) > 100
        return [DenseColumn(name, column, "log1p" if log else "none", missing)]
    if whole:
        kind = "integer" if max(map(len, given)) <= 18 else "text"
        return [CategoricalColumn(name, column, kind)]
    if all(map(_is_iso, given)):
        return [
            CategoricalColumn(f"{name}_{part}", column, "datetime", datetime_format=ISO, part=part)
            for part in ("hour_of_day", "weekday")
        ]
    if all(re.fullmatch("[0-9a-f]{8}", value) for value in given):
        return [CategoricalColumn(name, column, "hexadecimal")]
    for separator in _SEPARATORS:
        parts = collections.Counter(p for value in given for p in value.split(separator))
        # Lists repeat their parts much more often than themselves.
        if len(parts) < different / 2 and not any(" " in p.strip() for p in parts):
            return [CategoricalColumn(name, column, "text", separator=separator, hotness=None)]
    return [CategoricalColumn(name, column)]


def _list(name: str, column: str, given: list[Any]) -> CategoricalColumn:
    values = [value for row in given for value in row if value is not None]
    kind = "integer" if values and all(isinstance(value, int) for value in values) else "text"
    lengths = {len(row) for row in given}
    fixed = lengths.pop() if len(lengths) == 1 else None
    return CategoricalColumn(name, column, kind, hotness=fixed if fixed and fixed > 1 else None)


def _is_iso(text: str) -> bool:
    if _WHOLE.fullmatch(text):
        return False
    try:
        datetime.datetime.fromisoformat(re.sub("[zZ]$", "+00:00", text))
    except ValueError:
        return False
    return True


def _comment(sample: _Sample) -> str:
    if sample.is_list:
        return "lists"
    given = sample.given
    counted = collections.Counter(given).most_common(1)
    comment = f"{len(set(given)):,} different values"
    if counted:
        comment += f", the most frequent {counted[0][0][:40]!r}"
    missing = len(sample.values) - len(given)
    return comment + (f"; missing in {missing:,} rows" if missing else "")
