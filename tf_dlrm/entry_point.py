"""What all entry points share: flags from dataclasses, one-sentence errors, clean output."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from absl import app, flags
from absl import logging as absl_logging

from tf_dlrm.errors import UserError
from tfrecords import entry_point as shared
from tfrecords.errors import DataError

Options = TypeVar("Options")

# So that --help lists them under the program that calls `define_flags`, not under this module.
flags.disclaim_key_flags()


def define_flags(options: type) -> None:
    """Defines a flag for each field of a dataclass of `training.config`."""
    for field in dataclasses.fields(options):
        default: Any = field.default
        help_text = field.metadata["help"]
        if field.metadata["choices"]:
            flags.DEFINE_enum(field.name, default, list(field.metadata["choices"]), help_text)
        elif isinstance(default, bool):
            flags.DEFINE_bool(field.name, default, help_text)
        elif isinstance(default, int):
            flags.DEFINE_integer(field.name, default, help_text)
        elif isinstance(default, float):
            flags.DEFINE_float(field.name, default, help_text)
        elif isinstance(default, tuple):
            flags.DEFINE_list(field.name, [str(value) for value in default], help_text)
        else:
            flags.DEFINE_string(field.name, default, help_text)


def options_from_flags(options: type[Options]) -> Options:
    """Reads the flags that `define_flags(options)` defined.

    Raises:
        UserError: if a list of sizes holds something that is not an integer.
    """
    values: dict[str, Any] = {}
    for field in dataclasses.fields(options):  # type: ignore[arg-type]
        value: Any = flags.FLAGS[field.name].value
        if isinstance(field.default, tuple):
            value = tuple(entry.strip() for entry in value if entry.strip())
            if "int" in str(field.type):
                value = _integers(field.name, value)
        values[field.name] = value
    return options(**values)


def _integers(name: str, entries: Sequence[str]) -> tuple[int, ...]:
    # The paper's code separates sizes by dashes; its users may keep doing so.
    parts = [part for entry in entries for part in entry.split("-")]
    try:
        return tuple(int(part) for part in parts)
    except ValueError:
        raise UserError(
            f"--{name}={','.join(entries)} must be integers, separated by commas or dashes."
        ) from None


def run(main: Callable[[], dict[str, Any]]) -> None:
    """Runs `main` under absl; its result is printed as the last line, one JSON object.

    The entry points run on Keras 2: TFRS's TPUEmbedding exists only there. They own their process,
    so they choose it, before TensorFlow is imported. Standard output carries nothing but the
    result; logs and progress go to standard error.
    """
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    # What TensorFlow's C++ code logs as an error and matters is raised as well.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

    shared.prepare_streams()

    def guarded(argv: Sequence[str]) -> None:
        _log_to_standard_error()
        name = os.path.splitext(os.path.basename(argv[0]))[0]
        try:
            if argv[1:]:
                raise UserError(f"Unexpected argument {argv[1]!r}: options look like --name=value.")
            sys.stdout.write(json.dumps(main(), allow_nan=False) + "\n")
            shared.flush_output()
        except (UserError, DataError, OSError) as error:
            # What it would say of objects that are dropped now, such as a half restored model.
            logging.getLogger("tensorflow").setLevel(logging.ERROR)
            print(f"{name}: {shared.sentence(error)}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            shared.end_interrupted(argv)

    app.run(guarded, flags_parser=shared.parse_flags)


def _log_to_standard_error() -> None:
    """Sends this package's progress, and of other packages only warnings, to standard error."""
    absl_logging.set_verbosity(absl_logging.WARNING)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    for package in ("tf_dlrm", "tfrecords"):
        logger = logging.getLogger(package)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
