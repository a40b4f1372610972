"""Whether native kernels or TensorFlow's own operations do the work.

Kernels do it where layers are called with `training=True`, on a CPU, where they can be compiled.
Elsewhere, above all in what a SavedModel holds, there are TensorFlow's operations only, so that it
loads into any TensorFlow.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import logging
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from tf_dlrm.errors import UserError
from tf_dlrm.internals import in_save_context, xla_compiles_here
from tf_dlrm.kernels.build import SOURCES, BuildError, NoCompiler, library

_LOG = logging.getLogger(__name__)

KERNELS = ("auto", "native", "tensorflow")
_VARIABLE = "TF_DLRM_KERNELS"
# The last is what the entry point wants. Threads of a `MirroredStrategy` see no context variable.
_chosen = ["auto"]
_allowed: contextvars.ContextVar[bool | None] = contextvars.ContextVar("allowed", default=None)


@contextlib.contextmanager
def kernels_allowed(allowed: bool) -> Iterator[None]:
    """What is traced within may use kernels, or may not, whatever `training` is."""
    token = _allowed.set(allowed)
    try:
        yield
    finally:
        _allowed.reset(token)


@contextlib.contextmanager
def kernels_chosen(kernels: str) -> Iterator[None]:
    """Within, in all threads of the process, `kernels` is what is wanted, one of `KERNELS`.

    "auto" leaves it to the environment variable TF_DLRM_KERNELS. A program that is started within
    is not told.

    Raises:
        UserError: If that is asked and has another text.
    """
    _chosen.append(kernels)
    try:
        _wish()
        yield
    finally:
        _chosen.pop()


def are_allowed(training: bool | None = None) -> bool:
    """Returns whether a layer that is called so may use kernels, which XLA cannot compile."""
    if is_saving():
        return False
    allowed = _allowed.get()
    wanted = training is True if allowed is None else allowed
    return wanted and not xla_compiles_here()


def is_saving() -> bool:
    """Returns whether what is traced goes into a SavedModel that is being written.

    Keras 2 then traces calls with `training=True` too.
    """
    return bool(in_save_context())


def _wish() -> str:
    if _chosen[-1] != "auto":
        return _chosen[-1]
    wish = os.environ.get(_VARIABLE) or "auto"
    if wish not in KERNELS:
        raise UserError(
            f"The environment variable {_VARIABLE} must be one of {', '.join(KERNELS)}, not "
            f"{wish!r}."
        )
    return wish


def load() -> Any:
    """Returns TensorFlow's module of the operations, or None without.

    What is wanted is what `kernels_chosen` says, and else the environment variable TF_DLRM_KERNELS:
    "auto", the default, takes the kernels where they can be compiled; "native" fails where they
    cannot; "tensorflow" does without.

    Raises:
        ValueError: If TF_DLRM_KERNELS is another text, or "native" is wanted and they cannot be
            compiled.
    """
    wish = _wish()
    if wish == "tensorflow":
        return None
    operations, reason = _load(SOURCES)
    if operations is None and wish == "native":
        raise ValueError(f"--kernels or {_VARIABLE} is 'native', but {reason}.")
    return operations


@functools.cache
def _load(folder: pathlib.Path) -> tuple[Any, str]:
    """Returns the module of the operations, or None and why there is none."""
    try:
        return tf.load_op_library(library(folder)), ""
    except NoCompiler as error:
        _LOG.warning("TensorFlow's own operations do what native kernels would, slower: %s", error)
        return None, str(error)
    except (BuildError, tf.errors.OpError, OSError) as error:
        _LOG.error(
            "There should be native kernels here, but %s.\nTensorFlow's own operations do their "
            "work, slower. %s=tensorflow says that this is wanted.",
            error,
            _VARIABLE,
        )
        return None, str(error)
