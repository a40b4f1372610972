"""What all entry points share: one-sentence errors, clean output."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import app
from absl import logging as absl_logging

from tf_dlrm.errors import UserError
from tfrecords import entry_point as shared
from tfrecords.errors import DataError


def run(main: Callable[[], dict[str, Any]]) -> None:
    """Runs `main` under absl; its result is printed as the last line, one JSON object.

    The entry points run on Keras 2, whose optimizers work on parameter servers. They own
    their process, so they choose it, before TensorFlow is imported. Standard output carries nothing
    but the result; logs and progress go to standard error.
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
