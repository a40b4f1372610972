"""Files (TOML) that describe a table.

```toml
format = "csv"
ignore = ["id"]

[label]
column = "click"

[dense]
price = "log1p"

[categorical]
city = "text"
tags = {kind = "text", separator = "|"}
```

A column in `[dense]` is a transform, or a table of the attributes of `DenseColumn`; one in
`[categorical]` is a kind, or a table of the attributes of `CategoricalColumn`. `column` may be left
out where it is equal to the name.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import os
import sys
from collections.abc import Mapping
from typing import Any, TypeVar

import tomli_w

from tfrecords.conversion.column_description import CategoricalColumn, DenseColumn, LabelColumn
from tfrecords.conversion.table_description import TableDescription
from tfrecords.errors import DataError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_ANY = "any"
_PARTS = ("format", "label", "dense", "categorical")
_T = TypeVar("_T")


def built_in() -> tuple[str, ...]:
    """The names of the descriptions that come with the package."""
    files = importlib.resources.files("tfrecords.conversion") / "descriptions"
    return tuple(
        sorted(file.name[: -len(".toml")] for file in files.iterdir() if file.name[-5:] == ".toml")
    )


def load(name: str) -> TableDescription:
    """Reads a description.

    Args:
        name: Path of a file, or one of `built_in()`.

    Raises:
        DataError: If there is no such file, or an entry is not allowed.
    """
    if name in built_in():
        files = importlib.resources.files("tfrecords.conversion") / "descriptions"
        return from_toml((files / f"{name}.toml").read_text(encoding="utf-8"), f"{name}.toml")
    if not os.path.isfile(name):
        raise DataError(
            f"The description {name!r} is neither a file nor one that comes with the package "
            f"({', '.join(built_in())})."
        )
    try:
        with open(name, encoding="utf-8") as file:
            return from_toml(file.read(), name)
    except OSError as error:
        raise DataError(f"The description {name} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"The description {name} is no UTF-8 text: {error}.") from error


def from_toml(text: str, path: str) -> TableDescription:
    """Reads a description.

    Args:
        text: The TOML.
        path: Its file, for messages.

    Raises:
        DataError: If it is no TOML, or an entry is missing, not known or not allowed.
    """
    try:
        entries = tomllib.loads(text)
    except RecursionError:
        raise DataError(f"{path} is nested too deeply for a description.") from None
    except ValueError as error:  # also of numbers of thousands of digits
        raise DataError(f"{path} is no TOML: {error}.") from error
    try:
        return _table(entries)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _table(entries: dict[str, Any]) -> TableDescription:
    known = [field.name for field in dataclasses.fields(TableDescription)]
    _check_keys("", entries, known)
    for name in ("format", "label"):
        if name not in entries:
            raise DataError(f"{name} is missing.")
    label = entries["label"]
    if isinstance(label, str):
        label = {"column": label}
    return TableDescription(
        **{
            **entries,
            "label": _made(LabelColumn, "[label]", label, {}),
            "dense": tuple(
                _made(DenseColumn, f"[dense.{name}]", _long(entry, "transform"), {"name": name})
                for name, entry in _section(entries, "dense").items()
            ),
            "categorical": tuple(
                _made(
                    CategoricalColumn,
                    f"[categorical.{name}]",
                    _hotness(_long(entry, "kind"), name),
                    {"name": name},
                )
                for name, entry in _section(entries, "categorical").items()
            ),
        }
    )


def _section(entries: dict[str, Any], name: str) -> dict[str, Any]:
    section = entries.get(name, {})
    if not isinstance(section, dict):
        raise DataError(f"[{name}] must be a table of columns, not {section!r}.")
    return section


def _long(entry: Any, key: str) -> Any:
    """The table that a short entry stands for."""
    return {key: entry} if isinstance(entry, str) else entry


def _hotness(entry: Any, name: str) -> Any:
    if not isinstance(entry, dict):
        return entry
    hotness = entry.get("hotness", _ANY if "separator" in entry else 1)
    if isinstance(hotness, str) and hotness != _ANY:
        raise DataError(
            f"[categorical.{name}] hotness must be a whole number of at least 1, or '{_ANY}', not "
            f"{hotness!r}."
        )
    return {**entry, "hotness": None if hotness == _ANY else hotness}


def _made(kind: type[_T], where: str, entry: Any, given: dict[str, Any]) -> _T:
    if not isinstance(entry, dict):
        raise DataError(f"{where} must be text or a table, not {entry!r}.")
    known = [field.name for field in dataclasses.fields(kind) if field.name not in given]  # type: ignore[arg-type]
    _check_keys(f"{where} ", entry, known)
    if "column" not in entry:
        if "name" not in given:
            raise DataError(f"{where} column is missing.")
        entry = {**entry, "column": given["name"]}
    return kind(**given, **entry)


def _check_keys(where: str, entry: dict[str, Any], known: list[str]) -> None:
    for key in entry:
        if key not in known:
            raise DataError(f"{where}{key!r} is not known; allowed are {', '.join(known)}.")


def to_toml(description: TableDescription, comments: Mapping[str, str] | None = None) -> str:
    """Writes a description; the inverse of `from_toml`.

    What is equal to the default is left out.

    Args:
        description: The description.
        comments: What to say behind features, by their names; text of one line each.
    """
    comments = comments or {}
    default = TableDescription(
        description.format, description.label, description.dense, description.categorical
    )
    lines = [_entry("format", description.format)]
    for field in dataclasses.fields(description):
        value = getattr(description, field.name)
        if field.name not in _PARTS and value != getattr(default, field.name):
            lines.append(_entry(field.name, value))
    lines += ["", "[label]"]
    lines += [_entry(key, value) for key, value in _changed(description.label).items()]
    for section, short, columns in (
        ("dense", "transform", description.dense),
        ("categorical", "kind", description.categorical),
    ):
        if columns:
            lines += ["", f"[{section}]"]
            for column in columns:
                comment = comments.get(column.name)
                entry = _entry(column.name, _short(column, short))
                lines.append(f"{entry}  # {comment}" if comment else entry)
    return "\n".join(lines) + "\n"


def _changed(value: Any) -> dict[str, Any]:
    """The attributes that are not equal to their default."""
    return {
        field.name: getattr(value, field.name)
        for field in dataclasses.fields(value)
        if getattr(value, field.name) != field.default
    }


def _short(column: DenseColumn | CategoricalColumn, short: str) -> Any:
    entry = _changed(column)
    entry.pop("name")
    if column.column == column.name:
        del entry["column"]
    if isinstance(column, CategoricalColumn):
        if column.separator is not None and column.hotness == 1:
            entry["hotness"] = 1
        elif column.hotness is None:
            entry["hotness"] = _ANY
            if column.separator is not None:
                del entry["hotness"]
    return entry if entry.keys() - {short} else getattr(column, short)


def _entry(key: str, value: Any) -> str:
    # The library writes the key and all plain values; lists and tables on one line are ours.
    return tomli_w.dumps({key: 0}).rsplit(" = ", 1)[0] + " = " + _value(value)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(_entry(key, part) for key, part in value.items()) + "}"
    if isinstance(value, tuple):
        return "[" + ", ".join(_value(part) for part in value) + "]"
    return tomli_w.dumps({"x": value}).removeprefix("x = ").removesuffix("\n")
