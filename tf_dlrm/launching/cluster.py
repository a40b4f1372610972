"""The processes of a cluster on this machine: their roles, addresses and TF_CONFIG."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
from collections.abc import Iterator, Sequence

from tf_dlrm.errors import UserError

_NAMES = {"chief": "chief", "worker": "worker", "ps": "parameter server"}


@dataclasses.dataclass(frozen=True)
class Task:
    """One process of the cluster, as TF_CONFIG names it."""

    role: str  # chief, worker or ps
    index: int
    address: str  # HOST:PORT

    @property
    def label(self) -> str:
        """What stands before its lines of output: `worker 0`."""
        return self.role if self.role == "chief" else f"{self.role} {self.index}"

    @property
    def name(self) -> str:
        """What a sentence calls it: `parameter server 0`."""
        return "the chief" if self.role == "chief" else f"{_NAMES[self.role]} {self.index}"


def roles(workers: int, parameter_servers: int) -> tuple[tuple[str, int], ...]:
    """Role and index of each process; the first is the one whose result counts.

    With parameter servers a chief coordinates; without, worker 0 is one of equals.
    """
    if not parameter_servers:
        return tuple(("worker", index) for index in range(workers))
    return (
        ("chief", 0),
        *(("ps", index) for index in range(parameter_servers)),
        *(("worker", index) for index in range(workers)),
    )


def tf_config(tasks: Sequence[Task], task: Task) -> str:
    """TF_CONFIG of one task of the cluster that `tasks` are."""
    cluster: dict[str, list[str]] = {}
    for each in tasks:
        cluster.setdefault(each.role, []).append(each.address)
    return json.dumps({"cluster": cluster, "task": {"type": task.role, "index": task.index}})


@contextlib.contextmanager
def reserved_ports(count: int) -> Iterator[list[int]]:
    """Reserves free TCP ports of this machine for as long as the context lasts.

    Each port is held by a socket that is bound but does not listen. Linux gives it to nobody who
    asks for any port, yet lets a server that sets SO_REUSEADDR listen on it, as gRPC's do: also a
    server that takes the place of one that died.
    """
    with contextlib.ExitStack() as stack:
        ports: list[int] = []
        for _ in range(count):
            holder = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # On all interfaces, as TensorFlow's server listens.
            try:
                holder.bind(("0.0.0.0", 0))
            except OSError as error:
                raise UserError(
                    f"Of {count} TCP ports only {len(ports)} are free: {error.strerror}."
                ) from error
            ports.append(holder.getsockname()[1])
        yield ports
