"""The one kind of error that an entry point reports without a traceback."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

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
