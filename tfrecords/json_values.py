"""Values of JSON files that others may have written or edited, checked before they are used."""

from __future__ import annotations

import json
import math
import os
import re
from typing import Any

from tfrecords import files
from tfrecords.errors import DataError

# More than any count of rows or bytes; numbers of NumPy and TensorFlow hold it.
LARGEST = 2**62
_CRC = re.compile("[0-9a-f]{8}")


def parse(text: str | bytes, path: str, again: str) -> Any:
    """The value of a JSON text.

    Args:
        text: The text.
        path: Its file, for messages.
        again: A sentence that says how to get a good one, for messages.

    Raises:
        DataError: If it is none, or nested or long beyond what Python reads.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise DataError(f"{path} is nested too deeply. {again}") from None
    except ValueError as error:  # also of numbers of too many digits, and text that is no UTF-8
        raise DataError(f"{path} is not JSON: {error}. {again}") from error


def a_count(what: str, value: object, least: int = 0) -> None:
    """Checks a whole number.

    Raises:
        DataError: If it is none in `[least, LARGEST]`.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= LARGEST:
        raise DataError(f"{what} must be a whole number of at least {least}, not {shown(value)}.")


def a_number(what: str, value: object, low: float, high: float) -> None:
    """Checks a finite number.

    Raises:
        DataError: If it is none in `[low, high]`.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not low <= value <= high or not math.isfinite(value):  # type: ignore[operator,arg-type]
        raise DataError(f"{what} must be a number from {low:g} to {high:g}, not {shown(value)}.")


def a_crc(what: str, value: object) -> None:
    """Checks a CRC-32C.

    Raises:
        DataError: If it is not eight hex digits.
    """
    if not isinstance(value, str) or not _CRC.fullmatch(value):
        raise DataError(f"{what} must be eight hex digits, not {shown(value)}.")


def a_path_inside(what: str, value: object) -> None:
    """Checks a path relative to a folder.

    Raises:
        DataError: If it is no text, absolute, or leads out of the folder.
    """
    parts = value.split("/") if isinstance(value, str) else []
    if not parts or {"", ".", ".."} & set(parts) or "\0" in str(value) or ":" in parts[0]:
        raise DataError(
            f"{what} must be a path below the folder, such as 'train-00000.tfrecord', not "
            f"{shown(value)}."
        )


def no_link(folder: str, path: str) -> None:
    """Checks that no part of a path below a local folder is a link, which may lead out of it.

    Raises:
        DataError: If one is.
    """
    if files.is_remote(folder):
        return
    at = files.local(folder)
    for part in path.split("/"):
        at = os.path.join(at, part)
        if os.path.islink(at):
            raise DataError(
                f"{at} is a link, which is not followed, since it may lead out of the folder. Copy "
                "the file there."
            )


def shown(value: object) -> str:
    """A value for a message, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # a number of thousands of digits
        return "a number of very many digits"
    return text if len(text) <= 60 else text[:57] + "..."
