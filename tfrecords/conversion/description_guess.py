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
from tfrecords.conversion.column_description import CategoricalColumn, DenseColumn, LabelColumn
from tfrecords.conversion.column_guess import Guess, Sample, guess_column, is_unix
from tfrecords.conversion.table_description import TableDescription
from tfrecords.errors import DataError
from tfrecords.input_files import COMPRESSIONS, compression
from tfrecords.kinds.number import number_of

_ROWS = 10_000
_TEXT_BYTES = 4 << 20
_TEXTS = (".csv", ".tsv", ".txt", ".data", ".dat", ".test", ".train", ".log")
_SPARSE = (".libsvm", ".libfm")
# In this order: the others may stand within values.
_DELIMITERS = ("\t", "::", ",", ";", "|", "^")
_FEW = 100
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
        path: A table whose name ends in .parquet, or in one of `_TEXTS` and `_SPARSE`
            (each also compressed).
        label_column: The column that is the label; None to look for one.

    Raises:
        DataError: If it cannot be read, or no column looks like a label.
    """
    if not os.path.isfile(path):
        raise DataError(f"The file {path!r} does not exist or is no file.")
    name = _plain_name(path)
    if name.endswith(".parquet"):
        form: dict[str, Any] = {"format": "parquet"}
        samples, seen = _parquet_samples(path), ["the file names the columns"]
    elif name.endswith((*_TEXTS, *_SPARSE)):
        form, samples, seen = _text_samples(path)
    else:
        raise DataError(
            f"The name of {path} must end in {', '.join((*_TEXTS, *_SPARSE))} (each "
            f"also with {', '.join(COMPRESSIONS)}) or .parquet, so that its format is known."
        )
    rows = max((len(sample.values) for sample in samples), default=0)
    if not rows:
        raise DataError(f"{path} holds no row.")
    label, because = _label(path, samples, label_column)
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
    taken = [
        f"Guessed from the first {rows:,} rows of {os.path.basename(path)}: {'; '.join(seen)}.",
        "Look through it: is each number an amount (dense) or a name (categorical)? Is the label 1",
        "where it should be? Are the columns in ignore of no use?",
        f"The label is {label.column!r}, {because}. {_label_values(label)}",
        *(f"{name!r} is ignored: {g.why}." for name, g in guesses.items() if not g.features),
    ]
    return "".join(f"# {line}\n" for line in taken) + description_file.to_toml(
        description, comments
    )


def _label_values(label: LabelColumn) -> str:
    if label.positive_values:
        one, other = (
            " or ".join(map(repr, v)) for v in (label.positive_values, label.negative_values)
        )
        return f"It is 1 where it holds {one}, and 0 where {other}."
    if label.positive_from is not None:
        return f"It is 1 from {label.positive_from:g} on."
    return "It holds numbers from 0 to 1."


def _plain_name(path: str) -> str:
    """The name of a file in lower case, without the end that says how it is compressed."""
    return path.lower().removesuffix(compression(path.lower()))


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
            comments[name] = f"{guesses[sample.name].why}; {_comment(sample)}"
    return features, comments


def _text_samples(path: str) -> tuple[dict[str, Any], list[Sample], list[str]]:
    """How the text is written, its columns, and what was taken for what."""
    text = next(text_input.text_pieces(path, 0, _TEXT_BYTES, "table")).data
    try:
        # Only line feeds end a row: a text may hold U+2028 and the like.
        lines = text.decode("utf-8-sig").split("\n")[: _ROWS + 1]
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8 text: {error}.") from error
    lines = [line.removesuffix("\r") for line in lines if line.strip()]
    if _plain_name(path).endswith(_SPARSE):
        return _sparse_samples(path, lines)
    delimiter = _delimiter(lines)
    if not delimiter:
        raise DataError(
            f"The first line of {path} holds none of {', '.join(map(repr, _DELIMITERS))}, of which "
            "one must stand between the columns."
        )
    form: dict[str, Any] = {"format": "tsv" if delimiter == "\t" else "csv"}
    if delimiter not in "\t,":
        form["delimiter"] = delimiter
    fields = [line.split(delimiter) for line in lines]
    behind = [field for row in fields[1:] for field in row[1:]]
    blanks = sum(field[:1] == " " for field in behind)
    if 2 * blanks > len(behind) and all(field[:1] in ("", " ") for field in behind):
        form["strip"] = True
    as_described = TableDescription(
        **form, label=LabelColumn("label"), dense=(DenseColumn("feature", "feature"),)
    )
    head = [text_table.split_line(line, as_described) for line in lines[: _FEW + 1]]
    why = [f"{delimiter!r} stands between the columns"]
    if _is_header(head[0], head[1:]):
        names, lines = head[0], lines[1:]
        text_table.check_names_differ(path, tuple(names))
        why.append("the first line names them")
    else:
        names = _ratings(head) or [f"column_{number + 1}" for number in range(len(head[0]))]
        form["columns"] = tuple(names)
        ratings = "; they are taken for those of MovieLens's ratings"
        why.append("no line names them" + ratings * (names[0] == "user"))
    if form.get("strip"):
        why.append("blanks stand around values")
    values, bad = _columns(lines, len(names), as_described)
    if bad:
        why.append(f"{bad:,} lines are no rows of {len(names)} columns (--on_bad_row=skip)")
    seen = {value for column in values for value in column if value.strip() in _NULLS}
    form["null_values"] = (
        *(value for value in _NULLS if value in seen or value == ""),
        *sorted(seen.difference(_NULLS)),
    )
    nulls = set(form["null_values"])
    samples = [
        Sample(name, [None if value in nulls else value for value in column])
        for name, column in zip(names, values, strict=True)
    ]
    return form, samples, why


def _columns(
    lines: list[str], columns: int, description: TableDescription
) -> tuple[list[list[str]], int]:
    """The values of each column as the conversion reads them; and the number of bad lines."""
    names = tuple(map(str, range(columns)))
    text = "".join(f"{line}\n" for line in lines).encode()
    unknown = dataclasses.replace(description, null_values=())
    table, _, bad = text_table.parse_texts(text_table.Lines(names, text), unknown, names)
    if table is None:
        return [[] for _ in names], len(bad)
    return [column.cast(pa.string()).to_pylist() for column in table.columns], len(bad)


def _delimiter(lines: list[str]) -> str:
    """What stands between columns; "" where nothing does."""
    some = lines[:_FEW]
    for delimiter in _DELIMITERS:
        if some and some[0].count(delimiter) and len({line.count(delimiter) for line in some}) == 1:
            return delimiter
    found = max(_DELIMITERS, key=some[0].count) if some else ","
    return found if some and some[0].count(found) else ""


def _ratings(rows: list[list[str]]) -> list[str] | None:
    """The names of the columns of ratings as MovieLens publishes them, without a header."""
    if any(len(row) != 4 for row in rows):
        return None
    user, item, rating, time = (Sample("", list(column)) for column in zip(*rows, strict=True))
    if any(column.whole is None for column in (user, item)) or rating.numbers is None:
        return None
    few = len(set(rating.given)) <= 10 and 0 < rating.numbers.min() and rating.numbers.max() <= 10
    return ["user", "item", "rating", "timestamp"] if few and is_unix(time) else None


def _sparse_samples(path: str, lines: list[str]) -> tuple[dict[str, Any], list[Sample], list[str]]:
    """The columns of LIBSVM's form: `label feature:value feature:value ...`."""
    rows = [line.split(" ") for line in lines]
    width = len(rows[0]) if rows else 0
    if width < 2 or any(
        len(row) != width or not all(field.endswith(":1") for field in row[1:]) for row in rows
    ):
        raise DataError(
            f"{path} is of LIBSVM's form with another number of features in each row, or with "
            "values other than 1. A table has one column for each feature: write it as one, with a "
            "list of ids as text such as '3|17|4' where a row has any number of them."
        )
    names = ["label", *(f"field_{number}" for number in range(1, width))]
    form = {"format": "csv", "delimiter": " ", "quoting": False, "columns": tuple(names)}
    samples = [
        Sample(name, list(c)) for name, c in zip(names, zip(*rows, strict=True), strict=True)
    ]
    return form, samples, ["LIBSVM's form: the label, and a feature of value 1 in each field"]


def _is_header(first: list[str], rows: list[list[str]]) -> bool:
    """Whether the first line names the columns, and is no row like the others."""
    odd = [name for name in first if not name.strip() or _is_number(name)]
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
        if below and (index or (text and all(map(_is_number, below)))):
            return True
    return False


def _is_number(text: str) -> bool:
    return number_of(text) is not None


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


def _label(path: str, samples: list[Sample], wanted: str | None) -> tuple[LabelColumn, str]:
    """The label, and why it is."""
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
        return label, "as --label says"
    for name in (*_LABELS, *_RATINGS):
        if name in by_name:
            label = _as_label(by_name[name])
            if label is not None:
                return label, "by its name"
    for sample in (s for s in samples if not s.is_list):
        few = 2 <= len(set(sample.given)) <= _FEW  # which costs less to see
        if few and sample.numbers is not None and set(sample.numbers.tolist()) == {0.0, 1.0}:
            return LabelColumn(sample.name), "the first column of 0 and 1"
    raise DataError(
        f"No column of {path} looks like a label, which is a column of 0 and 1 or one called "
        f"{', '.join(_LABELS)}, {', '.join(_RATINGS)}. --label=COLUMN says which one it is. Its "
        f"columns are {columns}."
    )


def _as_label(sample: Sample) -> LabelColumn | None:
    if sample.numbers is not None:
        numbers = sample.numbers.tolist()
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
