"""How the processes of a cluster find each other: what they wait for, and why one cannot begin."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import tensorflow as tf

from tf_dlrm.errors import UserError, first_line
from tf_dlrm.training.distribution.processes import LOST
from tf_dlrm.training.distribution.tf_config import read_tf_config

_LOG = logging.getLogger(__name__)
# Of the error of a server whose port is taken; TensorFlow has no kind of its own for it.
_NOT_LISTENING = "Could not start gRPC server"


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Turns the error of a server that cannot begin to listen into a sentence.

    Raises:
        UserError: If this process cannot listen at its own address.
    """
    try:
        yield
    except tf.errors.OpError as error:
        if _NOT_LISTENING not in str(error):
            raise
        raise UserError(
            f"This process cannot listen at {_addresses()[0]}, its address in TF_CONFIG: another "
            f"program may have taken the port ({first_line(error)})."
        ) from error


@contextlib.contextmanager
def connecting() -> Iterator[None]:
    """Says which processes are waited for, and turns the errors of finding them into sentences.

    It is said before, since TensorFlow lets no other thread of Python run while it waits.

    Raises:
        UserError: If this process cannot listen, or another one ended before all were connected.
    """
    own, others = _addresses()
    if others:
        _LOG.info("at %s, waiting until all others have started: %s", own, ", ".join(others))
    try:
        with listening():
            yield
    except LOST as error:
        raise UserError(
            f"The process at {own} has not found all of {', '.join(others)} ({first_line(error)}); "
            "most likely one of them has ended, and its own last lines say why. Start all of them "
            "again."
        ) from error


def _addresses() -> tuple[str, list[str]]:
    """Returns the address of this process, and those of the others, as TF_CONFIG has them."""
    cluster, role, index = read_tf_config()
    own = cluster[role][index] if role else ""
    every = [address for addresses in cluster.values() for address in addresses]
    return own, [address for address in every if address != own]
