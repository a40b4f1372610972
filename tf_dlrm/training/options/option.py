"""What the dataclasses of options share: fields that are flags, and checks of their values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from tf_dlrm.errors import UserError

# More than any count of rows or steps is; sums and products of two still fit into int64 or are
# refused for their memory.
_MOST = 10**12
# TensorFlow counts the rows of a batch, and the seeds that it is given, in 32 bits.
INT32 = 2**31 - 1

_IN_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "a text",
}


def option(
    default: Any,
    help: str,
    choices: tuple[str, ...] = (),
    *,
    least: int = -_MOST,
    most: int = _MOST,
) -> Any:
    """A dataclass field that is also a flag.

    Args:
        default: Its default, which also says its type.
        help: What it is.
        choices: The texts that are allowed; empty for all.
        least: Of a whole number, or of each of several: the least that is allowed.
        most: The most that is allowed.
    """
    metadata = {"help": help, "choices": choices, "least": least, "most": most}
    return dataclasses.field(default=default, metadata=metadata)


def commas(values: Sequence[Any]) -> str:
    """A list as its flag has it."""
    return ",".join(str(value) for value in values)


def check_values(options: Any) -> None:
    """Checks each field of a dataclass of `option`s by itself.

    Raises:
        UserError: If one is of another type than its default, not a finite number, not one of its
            choices, or too small or too large.
    """
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        kind = type(field.default)
        if kind is tuple:
            kind = int if "int" in str(field.type) else str
            text = commas(value) if isinstance(value, tuple) else repr(value)
            if not isinstance(value, tuple) or not all(_is(entry, kind) for entry in value):
                raise UserError(f"--{field.name}={text} must be a list, each {_IN_WORDS[kind]}.")
            entries = value
        else:
            text, entries = str(value), (value,)
            if not _is(value, kind):
                raise UserError(f"--{field.name}={text} must be {_IN_WORDS[kind]}.")
        choices, least, most = (field.metadata[name] for name in ("choices", "least", "most"))
        if choices and value not in choices:
            raise UserError(f"--{field.name}={text} must be one of {', '.join(choices)}.")
        if kind is int:
            if any(entry < least for entry in entries):
                raise UserError(f"--{field.name}={text} must be {least} or more.")
            if any(entry > most for entry in entries):
                raise UserError(f"--{field.name}={text} must be {most} or less.")


def _is(value: Any, kind: type) -> bool:
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is kind
