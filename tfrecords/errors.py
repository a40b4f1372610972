"""The one exception that `tfrecords` raises for data that cannot be used, and what others say."""

from __future__ import annotations

import re

_FUNCTION = re.compile(r"^\{\{function_node [^}]*\}\} *")


class DataError(ValueError):
    """A data set, an input file or an array is not what it has to be.

    The message is one whole sentence (or a few) meant for the person who runs the program: it
    names the file, the line or record, the column and the value, and says what is allowed.
    """


def first_line(error: BaseException) -> str:
    """Returns the line of an error's message that says what happened, without its full stop.

    TensorFlow heads the errors of compiled functions with lines that say only where, or with the
    function's name in double braces, and ends them with the names of nodes in double brackets.
    """
    message = getattr(error, "message", None) or str(error)
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    lines = lines or [type(error).__name__]
    telling = [line for line in lines if "assertion failed" in line or "Error:" in line]
    if not telling and lines[0].startswith("Graph execution error"):
        nodes = [number for number, line in enumerate(lines) if line.startswith("[[")]
        telling = lines[nodes[0] - 1 :] if nodes else lines[1:]
    return _FUNCTION.sub("", (telling or lines)[0]).rstrip(". ")
