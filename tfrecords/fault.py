"""Points at which a process can be told to die, so that tests kill it at an exact moment.

A test that watches a process and then sends it a signal finds it somewhere else every time; and on
a fast machine it may be too late. Whoever runs this package in production can try their own
recovery in the same way.
"""

from __future__ import annotations

import json
import os
import signal

from tfrecords.errors import DataError

VARIABLE = "TF_DLRM_FAULT"


def fault_point(name: str, number: int) -> None:
    """Sends this process the signal that TF_DLRM_FAULT asks for at this point; else does nothing.

    The variable is `NAME:NUMBER:SIGNAL`, as in `checkpoint:20:SIGKILL`, or with a task of the
    cluster that TF_CONFIG describes, as in `checkpoint:20:SIGSTOP:worker.1`: then only that process
    is meant. Points are `checkpoint` (the checkpoint of that step is whole), `evaluation` (the
    evaluation after that step is in metrics.jsonl), `journal` (a conversion has written that many
    entries of its journal) and `folder` (a data set or an export is whole beside its place; 1: what
    was there is set aside, 2: the new one has taken its place).

    Args:
        name: What has happened.
        number: Which one it was.

    Raises:
        DataError: If the variable is set to anything else.
    """
    text = os.environ.get(VARIABLE)
    if not text:
        return
    try:
        wanted, wanted_number, signal_name, *task = text.split(":")
        matches = (wanted, int(wanted_number)) == (name, number)
        kind = signal.Signals[signal_name]
        if len(task) > 1:
            raise ValueError("too many parts")
    except (ValueError, KeyError) as error:
        raise DataError(
            f"The environment variable {VARIABLE} is {text!r}, but must be NAME:NUMBER:SIGNAL or "
            "NAME:NUMBER:SIGNAL:TASK, as in checkpoint:20:SIGKILL:worker.1."
        ) from error
    if matches and (not task or task[0] == _task()):
        os.kill(os.getpid(), kind)


def _task() -> str:
    task = json.loads(os.environ.get("TF_CONFIG") or "{}").get("task", {})
    return f"{task.get('type', '')}.{task.get('index', '')}"
