"""Reading off the trainers, by TensorFlow's tf.data service.

A dispatcher and a worker are started on a machine that sees the data set under the same path; a
trainer names the dispatcher (`grpc://host:port`) and gets its batches over the network:

```
python -m tfrecords.data_service dispatcher --port=5050
python -m tfrecords.data_service worker --port=5051 --dispatcher=HOST:5050 --address=HOST:5051
```

Both listen on all addresses of the machine, without authentication, as TensorFlow's servers do: run
them within a network that you trust.

The order of the batches is the same as without the service, which an exact resume relies on. That
holds for a service with one worker: TensorFlow lets every worker run the whole dataset and hands
out what comes first, so two workers would yield each batch twice. Batches are therefore numbered
before they travel, and reading stops with an error at the first number that is not the next. For
more throughput give each trainer (`shard_index`) a service of its own.
"""

from __future__ import annotations

import contextlib
import logging
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf
from absl import app, flags

from tfrecords import entry_point
from tfrecords.errors import DataError

_ADDRESS = re.compile(r"grpc://([^\s/:]+):(\d{1,5})")
# What a client of HTTP/2 sends first, with empty settings; a gRPC server answers with its own.
_GRPC_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
# For a connection, and for the answer after it.
_SECONDS = 10.0
# Until somebody who waits is told what for.
SECONDS_OF_PATIENCE = 4.0
_LOG = logging.getLogger(__name__)


def through_service(dataset: tf.data.Dataset, address: str) -> tf.data.Dataset:
    """Makes a dataset be read by a tf.data service.

    Args:
        dataset: What `batches` of a source returns: finite, of known cardinality.
        address: The dispatcher, for example "grpc://localhost:5050".

    Returns:
        The same elements in the same order. While reading, TensorFlow raises
        `InvalidArgumentError` if the service does not keep the order, because it has several
        workers or because its worker was started again.

    Raises:
        DataError: If the address has another form, or nothing answers there.
    """
    check_address(address)
    count = int(dataset.cardinality())
    served = dataset.enumerate().apply(
        tf.data.experimental.service.distribute(
            processing_mode=tf.data.experimental.service.ShardingPolicy.OFF, service=address
        )
    )

    def check(expected: tf.Tensor, numbered: tuple[tf.Tensor, Any]) -> Any:
        number, element = numbered
        in_turn = tf.debugging.Assert(
            tf.equal(number, expected),
            [
                "The tf.data service yielded another batch than the next one: it has several "
                "workers, or its worker was started again. Number and expected number:",
                number,
                expected,
            ],
        )
        with tf.control_dependencies([in_turn]):
            return tf.nest.map_structure(tf.identity, element)

    checked = tf.data.Dataset.zip((tf.data.Dataset.range(count), served)).map(check)
    return checked.apply(tf.data.experimental.assert_cardinality(count)).prefetch(2)


def check_address(address: str) -> None:
    """Checks that a gRPC server answers at a dispatcher's address.

    TensorFlow itself would try for an hour without a word. Here a warning says after a few seconds
    what is waited for.

    Raises:
        DataError: If the address has another form than "grpc://HOST:PORT", or nothing answers.
    """
    match = _ADDRESS.fullmatch(address)
    if not match:
        raise DataError(
            f"The address of a tf.data service has the form grpc://HOST:PORT, not {address!r}."
        )
    try:
        with (
            said_while_waiting(f"for the tf.data service at {address}, which has not answered yet"),
            socket.create_connection((match[1], int(match[2])), timeout=_SECONDS) as connection,
        ):
            connection.settimeout(_SECONDS)
            connection.sendall(_GRPC_HELLO)
            answer = connection.recv(1)
    except (OSError, OverflowError, UnicodeError) as error:
        raise DataError(f"No tf.data service answers at {address}: {error}.") from error
    if not answer:
        raise DataError(f"What listens at {address} is no tf.data service: it ends the connection.")


@contextlib.contextmanager
def said_while_waiting(what: str) -> Iterator[None]:
    """Warns every few seconds of what is waited for: TensorFlow waits without a word.

    Args:
        what: The rest of a sentence that begins with "waiting".
    """
    done = threading.Event()

    def say() -> None:
        while not done.wait(SECONDS_OF_PATIENCE):
            _LOG.warning("waiting %s", what)

    thread = threading.Thread(target=say, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def start_dispatcher(port: int) -> tf.data.experimental.service.DispatchServer:
    """Starts a dispatcher in this process; port 0 takes one that is free."""
    return tf.data.experimental.service.DispatchServer(
        tf.data.experimental.service.DispatcherConfig(port=port)
    )


def start_worker(
    dispatcher: str, port: int, address: str | None = None
) -> tf.data.experimental.service.WorkerServer:
    """Starts a worker in this process.

    Args:
        dispatcher: HOST:PORT of the dispatcher.
        port: Where it listens; 0 takes a port that is free.
        address: HOST:PORT under which trainers reach it; None for localhost.
    """
    return tf.data.experimental.service.WorkerServer(
        tf.data.experimental.service.WorkerConfig(
            dispatcher_address=dispatcher, worker_address=address, port=port
        )
    )


def _define_flags() -> None:
    # Not at import: trainers import this module and have flags of their own.
    flags.DEFINE_integer(
        "port",
        None,
        "Where to listen; 0: any port that is free.",
        required=True,
        lower_bound=0,
        upper_bound=65535,
    )
    flags.DEFINE_string("dispatcher", None, "HOST:PORT of the dispatcher; a worker needs it.")
    flags.DEFINE_string(
        "address", None, "HOST:PORT under which trainers reach this worker; default: localhost."
    )


def main(argv: Sequence[str]) -> None:
    """Runs the server that the command line names, until it is stopped."""
    if len(argv) != 2 or argv[1] not in ("dispatcher", "worker"):
        raise app.UsageError("Say which one: python -m tfrecords.data_service dispatcher|worker")
    if argv[1] == "worker" and flags.FLAGS.dispatcher is None:
        raise app.UsageError("A worker needs --dispatcher=HOST:PORT.")
    server, port = _start(argv[1])
    sys.stderr.write(f"The {argv[1]} of a tf.data service listens on port {port}.\n")
    # Python's own handlers wait for the call below, which never returns.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    server.join()


def _start(role: str) -> tuple[Any, int]:
    """Starts the server of a role, and returns it with its port.

    Raises:
        DataError: If an address has another form, the dispatcher does not answer, or the port is
            taken.
    """
    values = flags.FLAGS
    if values.address is not None and not _ADDRESS.fullmatch(f"grpc://{values.address}"):
        raise DataError(f"--address={values.address} must have the form HOST:PORT.")
    if role == "worker":
        try:
            check_address(f"grpc://{values.dispatcher}")
        except DataError as error:
            raise DataError(f"--dispatcher={values.dispatcher}: {error}") from error
    server: Any
    try:
        if role == "dispatcher":
            server = start_dispatcher(values.port)
            address = server.target
        else:
            server = start_worker(values.dispatcher, values.port, values.address)
            # Private, and the only place where TensorFlow says which port it took.
            address = server._address
    except (tf.errors.OpError, RuntimeError) as error:  # whichever TensorFlow makes of it
        raise DataError(
            f"The {role} cannot listen on --port={values.port}, which another program may have "
            f"taken: {error}."
        ) from error
    return server, values.port or int(address.rsplit(":", 1)[1])


if __name__ == "__main__":
    _define_flags()
    entry_point.run(main)
