"""Options of programs: dataclasses whose fields are flags, and checks of their values.

Nothing here imports TensorFlow, so that a mistaken flag is reported before TensorFlow starts.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from absl import flags

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

_DEFINE: dict[type, Any] = {
    bool: flags.DEFINE_bool,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
}

OptionsType = TypeVar("OptionsType", bound="Options")

# So that --help lists them under the program that calls `define_flags`, not under this module.
flags.disclaim_key_flags()


def option(
    default: Any,
    help: str,
    choices: tuple[str, ...] = (),
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Any:
    """A dataclass field that is also a flag.

    Args:
        default: Its default, which also says its type.
        help: What it is.
        choices: The texts that are allowed; empty for all.
        least: Of a number, or of each of several: the least that is allowed.
        most: The most that is allowed.
        above: What it must be above.
        below: What it must be below.
    """
    limits = {"least": least, "most": most, "above": above, "below": below}
    metadata = {"help": help, "choices": choices, "limits": limits}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of a program, each field made by `option`."""

    def validate(self) -> None:
        """Raises UserError with one sentence on the first option that can't be."""
        check_values(self)

    def given(self) -> dict[str, str]:
        """Returns the options that are not as they are by default, as their flags have them."""
        return {
            field.name: in_flag(getattr(self, field.name))
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        }


def commas(values: Sequence[Any]) -> str:
    """A list as its flag has it."""
    return ",".join(str(value) for value in values)


def in_flag(value: Any) -> str:
    """A value as its flag has it."""
    return commas(value) if isinstance(value, list | tuple) else str(value)


def check_values(options: Options) -> None:
    """Checks each field of options by itself.

    Raises:
        UserError: If one is of another type than its default, not a finite number, not one of its
            choices, or outside its limits.
    """
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        kind, several = type(field.default), isinstance(field.default, tuple)
        shown = repr(value) if several and not isinstance(value, tuple) else in_flag(value)
        flag = f"--{field.name}={shown}"
        if several:
            kind = int if "int" in str(field.type) else str
            if not isinstance(value, tuple) or not all(_is(entry, kind) for entry in value):
                raise UserError(f"{flag} must be a list, each {_IN_WORDS[kind]}.")
        elif not _is(value, kind):
            raise UserError(f"{flag} must be {_IN_WORDS[kind]}.")
        choices = field.metadata["choices"]
        if choices and value not in choices:
            raise UserError(f"{flag} must be one of {', '.join(choices)}.")
        if kind in (int, float):
            for fits, wanted in _limits(kind, field.metadata["limits"]):
                if not all(map(fits, value if several else (value,))):
                    raise UserError(f"{flag} must be {wanted}.")


def _is(value: Any, kind: type) -> bool:
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is kind


def _limits(kind: type, limits: dict[str, float | None]) -> Iterator[tuple[Any, str]]:
    """Yields conditions on a number, each with what a message says of it."""
    least, most, above, below = (limits[k] for k in ("least", "most", "above", "below"))
    if kind is int:
        least, most = (-_MOST if least is None else least), (_MOST if most is None else most)
        yield lambda value: value >= least, f"{least} or more"
        yield lambda value: value <= most, f"{most} or less"
    elif above is not None:
        yield lambda value: value > above, f"a number above {above}"
    elif below is not None:
        yield lambda value: least <= value < below, f"at least {least} and less than {below}"
    elif most is not None:
        yield lambda value: least <= value <= most, f"between {least} and {most}"
    elif least is not None:
        yield lambda value: value >= least, f"a number of {least} or more"


def define_flags(*options: type[Options]) -> None:
    """Defines a flag for each field."""
    for field in itertools.chain(*map(dataclasses.fields, options)):
        default: Any = field.default
        arguments: Any = {"name": field.name, "default": default, "help": field.metadata["help"]}
        if field.metadata["choices"]:
            flags.DEFINE_enum(**arguments, enum_values=list(field.metadata["choices"]))
        elif isinstance(default, tuple):
            flags.DEFINE_list(**arguments | {"default": list(map(str, default))})
        else:
            _DEFINE[type(default)](**arguments)


def options_from_flags(options: type[OptionsType]) -> OptionsType:
    """Reads the flags that `define_flags(options)` defined.

    Raises:
        UserError: if a list of sizes holds something that is not an integer.
    """
    values: dict[str, Any] = {}
    for field in dataclasses.fields(options):
        value: Any = flags.FLAGS[field.name].value
        if isinstance(field.default, tuple):
            value = tuple(entry.strip() for entry in value if entry.strip())
            if "int" in str(field.type):
                value = _integers(field.name, value)
        values[field.name] = value
    return options(**values)


def _integers(name: str, entries: Sequence[str]) -> tuple[int, ...]:
    # The paper's code separates sizes by dashes; its users may keep doing so.
    parts = [part for entry in entries for part in entry.split("-")]
    try:
        return tuple(int(part) for part in parts)
    except ValueError:
        raise UserError(
            f"--{name}={commas(entries)} must be integers, separated by commas or dashes."
        ) from None
