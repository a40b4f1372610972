"""From what a runner raises to a sentence."""

from __future__ import annotations

import re

# Workers of other processes hand over the text of a traceback, in which an exception's line begins
# with its class, and Beam puts the step's name behind the message.
_DATA_ERROR = re.compile(
    r"(?:^|\n|\\n)(?:tfrecords\.[a-z_.]+\.)?(?:DataError|OddLabels): (.*?)"
    r"(?: \[while running|\n|\\n|$)"
)
_STEP = re.compile(r" \[while running [^\]]*\]")
_LAST_LINE = re.compile(r"^(?:[A-Za-z_][\w.]*(?:Error|Exception)): .+", re.MULTILINE)


def sentence(error: BaseException) -> str:
    """What to tell the person who runs the program.

    Args:
        error: What the pipeline raised.

    Returns:
        The message of the `DataError` behind it, if there is one; else the runner's own message.
    """
    text = str(error)
    if type(error).__name__ in ("DataError", "OddLabels"):
        return _STEP.sub("", text)
    found = _DATA_ERROR.search(text)
    if found:
        return found.group(1)
    lines = _LAST_LINE.findall(text)
    last = _STEP.sub("", lines[-1] if lines else (text.strip().splitlines() or [repr(error)])[-1])
    return f"The pipeline failed: {last.rstrip('.')}. Nothing was changed."
