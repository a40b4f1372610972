"""What the dataclasses of options share: fields that are flags, and checks of their values."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from tf_dlrm.errors import UserError


def option(default: Any, help: str, choices: tuple[str, ...] = ()) -> Any:
    """A dataclass field that is also a flag, with its help text and its allowed values."""
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices})


def commas(values: Sequence[Any]) -> str:
    """A list as its flag has it."""
    return ",".join(str(value) for value in values)


def check_choices(options: Any) -> None:
    """Raises UserError if a field has a value that is not one of its choices."""
    for field in dataclasses.fields(options):
        choices = field.metadata["choices"]
        value = getattr(options, field.name)
        if choices and value not in choices:
            raise UserError(f"--{field.name}={value} must be one of {', '.join(choices)}.")


def check_at_least(options: Any, least: int, *names: str) -> None:
    """Raises UserError if a field is less than `least`, or not a number."""
    for name in names:
        if not getattr(options, name) >= least:
            raise UserError(f"--{name}={getattr(options, name)} must be {least} or more.")
