"""Checks of what a description says; `what` is how an error calls it."""

from __future__ import annotations

import math
from typing import Any, TypeGuard

from tfrecords.errors import DataError


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a value is a whole number, and no truth."""
    return isinstance(value, int) and not isinstance(value, bool)


def fits(value: object) -> bool:
    """Whether a value is a whole number that float64 holds exactly."""
    return is_whole(value) and abs(int(value)) <= 2**53


def check_name(what: str, value: object) -> None:
    """Refuses what cannot be the name of a column."""
    if not isinstance(value, str) or not value:
        raise DataError(f"{what} must be the name of a column, not {value!r}.")
    if any(character in value for character in "\r\n\0"):
        raise DataError(f"{what} must be text of one line, not {value!r}.")


def check_choice(what: str, value: object, allowed: tuple[str, ...]) -> None:
    """Refuses what is none of some values."""
    if value not in allowed:
        raise DataError(f"{what} must be {either(allowed)}, not {value!r}.")


def either(allowed: tuple[str, ...]) -> str:
    """Values as a list for a sentence."""
    quoted = [repr(value) for value in allowed]
    return " or ".join(part for part in (", ".join(quoted[:-1]), quoted[-1]) if part)


def check_count(what: str, value: object) -> None:
    """Refuses what is neither None nor a whole number of at least 1."""
    if value is not None and not (is_whole(value) and 1 <= int(value) < 2**62):
        raise DataError(f"{what} must be a whole number of at least 1, not {value!r}.")


def check_truth(what: str, value: object) -> None:
    """Refuses what is neither true nor false."""
    if not isinstance(value, bool):
        raise DataError(f"{what} must be true or false, not {value!r}.")


def check_separator(what: str, value: object) -> None:
    """Refuses what cannot stand between the values of a row."""
    if value is None:
        return
    if not isinstance(value, str) or not value or any(c in value for c in "\r\n\0"):
        raise DataError(f"{what} must be the text between two values, such as '|', not {value!r}.")


def set_number(owner: Any, name: str, what: str) -> None:
    """Makes an attribute a float where it is given; refuses what is no finite number."""
    value = getattr(owner, name)
    if value is None:
        return
    number = float(value) if isinstance(value, float) or fits(value) else math.nan
    if not math.isfinite(number):
        raise DataError(f"{what} must be a number, not {value!r}.")
    object.__setattr__(owner, name, number)


def set_texts(owner: Any, name: str, what: str) -> None:
    """Makes an attribute a tuple of texts; refuses what is no list of them."""
    values = getattr(owner, name)
    if not isinstance(values, (list, tuple)) or not all(isinstance(v, str) for v in values):
        raise DataError(f"{what} must be a list of texts, not {values!r}.")
    object.__setattr__(owner, name, tuple(values))
