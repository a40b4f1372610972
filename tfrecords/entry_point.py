"""What the commands share: flag files that are no text, and ends with one sentence."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import app, flags

from tfrecords.errors import DataError

INTERRUPTED = 128 + signal.SIGINT  # as shells give it


def run(main: Callable[[Sequence[str]], None], known_only: bool = False) -> None:
    """Runs the `main` of a command under absl; does not return.

    The exit code is 1, and standard error has a sentence, where `main` raises what a user can mend:
    a `DataError`, an `OSError`, or the `app.UsageError` of a wrong command line; and 130 after
    SIGINT.

    Args:
        main: Gets the command line without its flags.
        known_only: Whether flags that are not defined are left for `main`.
    """
    prepare_streams()

    def guarded(argv: Sequence[str]) -> None:
        try:
            main(argv)
            flush_output()
        except (DataError, OSError, app.UsageError) as error:
            sys.exit(f"error: {sentence(error)}")
        except KeyboardInterrupt:
            end_interrupted(argv)

    app.run(guarded, flags_parser=lambda argv: parse_flags(argv, known_only))


def parse_flags(argv: Sequence[str], known_only: bool = False) -> list[str]:
    """Parses the command line as absl does, with a sentence also where a flag file is no text."""
    try:
        if not known_only:
            return list(app.parse_flags_with_usage(list(argv)))
        return list(flags.FLAGS(list(argv), known_only=True))
    except flags.Error as error:
        print(f"FATAL Flags parsing error: {error}", file=sys.stderr)
        sys.exit(1)
    except (ValueError, OSError) as error:
        print(
            f"{_name(argv)}: --flagfile must name a file of flags as text: {error}.",
            file=sys.stderr,
        )
        sys.exit(2)


def end_interrupted(argv: Sequence[str]) -> NoReturn:
    """Ends the process, which SIGINT has interrupted, with a sentence."""
    print(f"{_name(argv)}: stopped by SIGINT.", file=sys.stderr)
    sys.exit(INTERRUPTED)


def _name(argv: Sequence[str]) -> str:
    return os.path.splitext(os.path.basename(argv[0]))[0]


def prepare_streams() -> None:
    """Ends the process where standard output is closed, which would lose results without a word."""
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")
    if sys.stdout is None:
        sys.exit("error: Standard output is closed, so results would be lost; /dev/null takes it.")


def flush_output() -> None:
    """Writes out what standard output still holds.

    Raises:
        OSError: If that is not possible; it names standard output.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        # Else Python tries it again at its end, and complains in its own words.
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        raise OSError(error.errno, error.strerror, "Standard output") from error


def sentence(error: BaseException) -> str:
    """What is told of an error."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror}."
    return str(error)
