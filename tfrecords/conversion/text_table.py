"""CSV and TSV: the columns that are used, from lines of text."""

from __future__ import annotations

import collections
import csv as python_csv
import dataclasses
import io
import re
from collections.abc import Sequence

import pyarrow as pa
from pyarrow import csv

from tfrecords.conversion import text_input
from tfrecords.conversion.formats import BadRow
from tfrecords.conversion.table_description import TableDescription
from tfrecords.errors import DataError
from tfrecords.json_values import shown
from tfrecords.kinds.kind import TEXT
from tfrecords.kinds.whole import CSV_TYPE, NOT_STRICT

_MARK = b"\xef\xbb\xbf"
# Stands for a delimiter of several characters, since Arrow's parser wants one.
_STAND_IN = b"\x1f"


@dataclasses.dataclass(frozen=True)
class Lines:
    """Whole lines of one file.

    Attributes:
        columns: The names of all its columns.
        text: The lines, each with its line feed.
    """

    columns: tuple[str, ...]
    text: bytes


def read_header(path: str, description: TableDescription) -> tuple[tuple[str, ...], int]:
    """The names of the columns of a file, and the byte of the text at which its rows begin.

    Raises:
        DataError: If the file cannot be read, or its columns are not what the description says.
    """
    first = next(text_input.text_pieces(path, 0, 1 << 16, "table")).data
    return header(path, first, description)


def header(path: str, first: bytes, description: TableDescription) -> tuple[tuple[str, ...], int]:
    """As `read_header`, from the first lines of the file.

    Raises:
        DataError: If the columns are not what the description says.
    """
    mark = len(_MARK) if first.startswith(_MARK) else 0
    if description.columns:
        return description.columns, mark
    line = first[mark : first.index(b"\n") + 1]
    try:
        columns = tuple(split_line(line.rstrip(b"\r\n").decode("utf-8"), description))
    except UnicodeDecodeError as error:
        raise DataError(f"The header of {path} is no UTF-8 text: {error}.") from error
    check_columns(path, columns, description)
    return columns, mark + len(line)


def split_line(line: str, description: TableDescription) -> list[str]:
    """The fields of a line."""
    line = _plain(line.encode(), description).decode()
    delimiter = _delimiter(description).decode()
    if not description.quoting:
        return line.split(delimiter)
    # Python refuses fields of 131,073 characters, which Arrow reads.
    limit = python_csv.field_size_limit(len(line) + 1)
    try:
        return next(python_csv.reader([line], delimiter=delimiter), [])
    finally:
        python_csv.field_size_limit(limit)


def _delimiter(description: TableDescription) -> bytes:
    """What stands between the fields of plain lines."""
    delimiter = str(description.delimiter).encode()
    return delimiter if len(delimiter) == 1 else _STAND_IN


def _plain(text: bytes, description: TableDescription) -> bytes:
    """Lines as Arrow's parser takes them: no blanks to strip, a delimiter of one character."""
    delimiter = str(description.delimiter).encode()
    if description.strip:
        blanks = rb"[ ]*" if delimiter == b"\t" else rb"[ \t]*"
        end = rb"(\A|\Z|\r?\n|" + re.escape(delimiter) + rb")"
        if description.quoting and b'"' in text:
            pattern = rb'("(?:[^"\n]|"")*")|' + blanks + end + blanks
            text = re.sub(pattern, lambda found: found[1] or found[2], text)
        else:
            text = re.sub(blanks + end + blanks, rb"\1", text)
    return text if len(delimiter) == 1 else text.replace(delimiter, _STAND_IN)


def _has_stand_in(text: bytes, description: TableDescription) -> bool:
    return len(str(description.delimiter)) > 1 and _STAND_IN in text


def check_columns(path: str, columns: tuple[str, ...], description: TableDescription) -> None:
    """Checks the names of the columns of a file.

    Raises:
        DataError: If one is missing, is there twice, or is not named in the description.
    """
    listed = ", ".join(map(shown, columns[:30])) + (", ..." if columns[30:] else "")
    for name in (*description.used, *description.ignore):
        if name not in columns:
            raise DataError(
                f"{path} has no column {name!r}, which the description names. Its columns are "
                f"{listed}."
            )
    check_names_differ(path, columns)
    named = {*description.used, *description.ignore}
    if description.other_columns == "error":
        for name in columns:
            if name not in named:
                raise DataError(
                    f"{path} has a column {name!r} that the description does not name; name it in "
                    "ignore, or say other_columns = 'ignore'."
                )


def check_names_differ(path: str, columns: tuple[str, ...]) -> None:
    """Checks that no two columns of a file have one name.

    Raises:
        DataError: If two have.
    """
    for name, count in collections.Counter(columns).items():
        if count > 1:
            raise DataError(f"{path} has two columns called {name!r}; every name may occur once.")


def column_types(description: TableDescription) -> dict[str, pa.DataType]:
    """As what Arrow's parser of CSV reads each column that is used."""
    wanted: dict[str, set[pa.DataType]] = {name: set() for name in description.used}
    for number in description.numbers:
        wanted[number.column].add(number.meaning.csv_type)
    for column in description.categorical:
        several = column.separator is not None
        wanted[column.column].add(pa.binary() if several else column.meaning.csv_type)
    for name in description.kept.values():
        wanted[name].add(TEXT)
    # A column that is needed in two ways is read as text.
    return {name: next(iter(of)) if len(of) == 1 else pa.binary() for name, of in wanted.items()}


def parse_lines(lines: Lines, description: TableDescription) -> pa.Table | None:
    """Parses lines, all of which must be rows.

    Returns:
        The columns that are used, `[lines]`; None if a line is no row.
    """
    if b"\r" in lines.text and lines.text.count(b"\r") != lines.text.count(b"\r\n"):
        # Arrow takes a carriage return for the end of a line.
        return None
    if _has_stand_in(lines.text, description):
        return None
    lines = dataclasses.replace(lines, text=_plain(lines.text, description))
    types = column_types(description)
    if CSV_TYPE in types.values() and any(byte in lines.text for byte in NOT_STRICT):
        return None
    try:
        table = _read(lines, description, types)
    except pa.ArrowInvalid:
        return None
    if description.quoting and table.num_rows != lines.text.count(b"\n"):
        return None  # a line break stands in quotes
    return table


def parse_texts(
    lines: Lines, description: TableDescription, wanted: Sequence[str] | None = None
) -> tuple[pa.Table | None, list[int], list[BadRow]]:
    """Parses lines of which some have another number of columns.

    Args:
        lines: The lines.
        description: How they are written.
        wanted: Names of columns; None for those that are used.

    Returns:
        These columns, as text, of the lines that have the right number of columns (None
        if there is none); the numbers of those lines, from 0; and the others.

    Raises:
        DataError: If the lines that look right cannot be parsed.
    """
    good: list[bytes] = []
    numbers: list[int] = []
    bad: list[BadRow] = []
    for number, line in enumerate(lines.text.split(b"\n")[:-1]):
        plain = _plain(line.removesuffix(b"\r"), description)
        fault = _fault(plain, len(lines.columns), description)
        if _has_stand_in(line, description):
            fault = "form", f"it holds the character {_STAND_IN!r}"
        if fault is None:
            good.append(plain)
            numbers.append(number)
        else:
            bad.append(BadRow(number, *fault))
    if not good:
        return None, numbers, bad
    rest = Lines(lines.columns, b"\n".join(good) + b"\n")
    try:
        columns = description.used if wanted is None else wanted
        table = _read(rest, description, dict.fromkeys(columns, pa.binary()))
    except pa.ArrowInvalid as error:
        raise DataError(f"Lines of the table cannot be parsed: {error}.") from error
    if table.num_rows != len(good):
        raise DataError(f"{len(good)} lines of the table were parsed as {table.num_rows} rows.")
    return table, numbers, bad


def _read(lines: Lines, description: TableDescription, types: dict[str, pa.DataType]) -> pa.Table:
    return csv.read_csv(
        io.BytesIO(lines.text),
        read_options=csv.ReadOptions(
            use_threads=False, block_size=len(lines.text) + 1, column_names=list(lines.columns)
        ),
        parse_options=csv.ParseOptions(
            delimiter=_delimiter(description).decode(),
            quote_char='"' if description.quoting else False,
            ignore_empty_lines=False,
        ),
        convert_options=csv.ConvertOptions(
            check_utf8=False,
            column_types=types,
            include_columns=list(types),
            null_values=list(description.null_values),
            strings_can_be_null=True,
        ),
    )


def _fault(line: bytes, columns: int, description: TableDescription) -> tuple[str, str] | None:
    """Kind and clause of what is wrong with a line's number of columns, or None."""
    count = _count_fields(line, _delimiter(description), bool(description.quoting))
    if isinstance(count, str):
        return "form", count
    if count != columns:
        return "number of columns", f"it has {count} columns, where {columns} are needed"
    return None


def _count_fields(line: bytes, delimiter: bytes, quoting: bool) -> int | str:
    """Number of fields as Arrow's parser counts them, or what is wrong."""
    if not quoting or b'"' not in line:
        if b"\r" in line:
            return "it holds a carriage return"
        return line.count(delimiter) + 1
    fields = 0
    rest = line
    while True:
        fields += 1
        if rest.startswith(b'"'):
            # A quote that is written twice goes on; any other ends the quoted part.
            at = 1
            while True:
                at = rest.find(b'"', at)
                if at < 0:
                    return (
                        "it opens a quote that is not closed on the same line (line breaks within "
                        "quotes are not supported)"
                    )
                if rest[at + 1 : at + 2] != b'"':
                    break
                at += 2
            rest = rest[at + 1 :]
        unquoted, found, rest = rest.partition(delimiter)
        if b"\r" in unquoted:
            return "it holds a carriage return"
        if not found:
            return fields
