"""What a run has left, checked before it is compared: its result and its evaluations."""

from __future__ import annotations

import json
import math
import pathlib
from typing import Any

from tf_dlrm.errors import UserError
from tfrecords import json_values
from tfrecords.errors import DataError

# The largest value of each; none is below 0, and each may be undefined (null).
_METRICS = {"auc": 1.0, "log_loss": math.inf, "accuracy": 1.0}
_EVALUATIONS = "metrics.jsonl"


def check_result(result: Any, path: pathlib.Path) -> dict[str, Any]:
    """Returns the result of a run, if it is one.

    Raises:
        UserError: If something that is compared is missing, of a wrong type or out of its range,
            or a number is not finite.
    """
    try:
        _check("The result", result, list(_METRICS), {"parameters": 1, "step": 0})
        rate = "examples_per_second"
        if rate not in result:
            raise DataError(f"The result has no {rate!r}.")
        json_values.a_number(rate, result[rate], 0, json_values.LARGEST)
        for name, value in result.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise DataError(f"{name} must be a finite number, not {value}.")
    except DataError as error:
        raise UserError(
            f"{path} was edited or is damaged: {error} Remove the folder to train the run again."
        ) from None
    return dict(result)


def read_evaluations(folder: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the evaluations of a run that has ended, each with `step`, `auc` and `accuracy`.

    Raises:
        UserError: If the file is missing, or a line of it is none.
    """
    path = folder / _EVALUATIONS
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise UserError(
            f"{path} can't be read ({error.strerror}), which holds the evaluations of a run that "
            "has its result. Remove the folder to train the run again."
        ) from None
    entries = []
    for number, line in enumerate(lines, 1):
        where = f"{path}, line {number},"
        try:
            entry = json_values.parse(line, "It", "")
            _check("It", entry, ["auc", "accuracy"], {"step": 0})
        except DataError as error:
            raise UserError(
                f"{where} is no evaluation: {str(error).strip()} Remove the folder to train the "
                "run again, or the line to draw the curves without it."
            ) from None
        entries.append(entry)
    return entries


def read_json(path: pathlib.Path) -> Any:
    """Returns what a file of JSON holds; None if there is none.

    Raises:
        ValueError: If it holds something else.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _check(what: str, values: Any, metrics: list[str], counts: dict[str, int]) -> None:
    """Checks metrics, and whole numbers with the least that each may be."""
    if not isinstance(values, dict):
        raise DataError(f"{what} must be a JSON object, not {json_values.shown(values)}.")
    for name in (*metrics, *counts):
        if name not in values:
            raise DataError(f"{what} has no {name!r}.")
    for name in metrics:
        if values[name] is not None:
            most = min(_METRICS[name], json_values.LARGEST)
            json_values.a_number(name, values[name], 0, most)
    for name, least in counts.items():
        json_values.a_count(name, values[name], least)
