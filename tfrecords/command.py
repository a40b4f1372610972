"""How commands of this package begin and end: flags from files, and Ctrl-C without a traceback."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence

from absl import app

INTERRUPTED = 128 + signal.SIGINT  # as shells give it


def run(
    main: Callable[[Sequence[str]], None],
    parse: Callable[[list[str]], list[str]] = app.parse_flags_with_usage,
) -> None:
    """Runs `main` under absl; SIGINT ends it with a sentence and code 130.

    Args:
        main: Takes what is left of the command line.
        parse: Reads the flags, and returns what is left.
    """

    def interruptible(argv: Sequence[str]) -> None:
        try:
            main(argv)
        except KeyboardInterrupt:
            print(f"{_name(argv)}: stopped by SIGINT.", file=sys.stderr)
            sys.exit(INTERRUPTED)

    app.run(interruptible, flags_parser=lambda argv: parse_flags(argv, parse))


def parse_flags(
    argv: Sequence[str],
    parse: Callable[[list[str]], list[str]] = app.parse_flags_with_usage,
) -> list[str]:
    """Reads the flags, with a sentence where a flag file is not text, and returns what is left."""
    try:
        return parse(list(argv))
    except UnicodeDecodeError as error:
        name = _name(argv)
        print(f"{name}: --flagfile must name a file of flags as text: {error}.", file=sys.stderr)
        sys.exit(2)


def _name(argv: Sequence[str]) -> str:
    return os.path.splitext(os.path.basename(argv[0]))[0]
