"""Runs `python -m MODULE FLAGS` in this process, which has TensorFlow already.

A process of its own costs three to eight CPU seconds for its imports; that a command works there
too needs one test for each command, not one for each bad flag.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import logging
import os
import runpy
import sys
from collections.abc import Iterator
from unittest import mock

from absl import flags

_PACKAGES = ("tf_dlrm", "tfrecords")


@dataclasses.dataclass(frozen=True)
class Done:
    """What a command left: its exit code, standard output and standard error."""

    code: int
    out: str
    err: str


def run_command(module: str, *arguments: str) -> Done:
    """Runs a command as the shell would, with flags and loggers of its own."""
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with (
        own_flags(),
        _own_loggers(),
        mock.patch.object(sys, "argv", [module, *map(str, arguments)]),
        mock.patch.dict(os.environ),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as error:
            code = error.code
    if isinstance(code, str):  # as Python itself does with sys.exit("a sentence")
        err.write(code + "\n")
        code = 1
    return Done(int(code or 0), out.getvalue(), err.getvalue())  # type: ignore[call-overload]


@contextlib.contextmanager
def own_flags() -> Iterator[None]:
    """Only absl's own flags are defined; modules that define others are imported anew."""
    values = flags.FLAGS
    before, modules = dict(values.__dict__), dict(sys.modules)
    _forget_modules_with_flags()
    absls = {
        name: entries
        for name, entries in values.flags_by_module_dict().items()
        if name.startswith("absl")
    }
    values.__dict__.clear()
    values.__dict__.update(flags.FlagValues().__dict__)
    for name, entries in absls.items():
        for entry in entries:
            values[entry.name] = copy.deepcopy(entry)
            values.register_flag_by_module(name, values[entry.name])
    try:
        yield
    finally:
        _forget_modules_with_flags()
        values.__dict__.clear()
        values.__dict__.update(before)
        for name in set(modules) - set(sys.modules):
            sys.modules[name] = modules[name]
            parent, _, child = name.rpartition(".")
            if parent in sys.modules:
                setattr(sys.modules[parent], child, modules[name])


def _forget_modules_with_flags() -> None:
    for name in flags.FLAGS.flags_by_module_dict():
        if name.split(".")[0] in _PACKAGES:
            module = sys.modules.pop(name, None)
            # `from package import module` takes the package's attribute, if there is one.
            parent, _, child = name.rpartition(".")
            if module and getattr(sys.modules.get(parent), child, None) is module:
                delattr(sys.modules[parent], child)


@contextlib.contextmanager
def _own_loggers() -> Iterator[None]:
    """Undoes what a command does to the loggers of the packages."""
    loggers = [logging.getLogger(name) for name in ("", "absl", "tensorflow", *_PACKAGES)]
    before = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    try:
        yield
    finally:
        for logger, handlers, level, propagate in before:
            logger.handlers[:] = handlers
            logger.setLevel(level)
            logger.propagate = propagate
