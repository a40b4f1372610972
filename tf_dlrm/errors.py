"""The one kind of error that an entry point reports without a traceback; checks of numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from tfrecords.errors import first_line as first_line


class UserError(ValueError):
    """Something that the user can mend: a flag, a file, a data set or a checkpoint.

    The message is a whole sentence: which flag or file, what came, and what is allowed.
    """


@contextlib.contextmanager
def as_user_error(where: str = "") -> Iterator[None]:
    """Turns a ValueError into a UserError.

    Args:
        where: What stands before its message, such as "--plan=FILE: ".
    """
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{where}{error}") from error


def check_whole(what: str, value: Any, least: int) -> None:
    """Raises ValueError unless a value is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{what} must be a whole number of at least {least}, but is {value!r}.")


def check_at_least_zero(holder: Any, *names: str) -> None:
    """Raises ValueError unless these attributes are finite numbers of at least 0."""
    for name in names:
        value = getattr(holder, name)
        if not 0.0 <= value < float("inf"):
            raise ValueError(f"{name} must be a finite number of at least 0, but is {value}.")
