"""Starts a cluster of local processes, for a try-out of distributed training.

python -m tf_dlrm.launch --workers=2 -- --flagfile=flags/X.flags [--flag=value ...]
python -m tf_dlrm.launch --workers=2 --parameter_servers=2 -- --flagfile=flags/X.flags ...

What stands after -- are the flags of tf_dlrm.train, which runs in every process with a TF_CONFIG of
its own. Standard output is that of worker 0, or of the chief, so its last line is the result;
everything else goes to standard error, each line after the name of its process. The exit code is 0
only if all that had to finish have. No process outlives the launcher, even if that is killed by
SIGKILL; this needs Linux. On a real cluster its manager starts tf_dlrm.train: see kubernetes/.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from absl import app

from tf_dlrm.errors import UserError
from tf_dlrm.launching.cluster import Task, reserved_ports, roles, tf_config
from tf_dlrm.launching.job import Job
from tf_dlrm.launching.parameter_server_job import ParameterServerJob
from tf_dlrm.launching.screen import Screen
from tf_dlrm.options import Options, define_flags, option, options_from_flags
from tfrecords.entry_point import parse_flags

# One machine; a slip of the finger must not fill it with processes.
_MOST_PROCESSES = 64
_MOST_THREADS = 4096
_MOST_SECONDS = 86_400


@dataclasses.dataclass(frozen=True)
class LaunchOptions(Options):
    """What to start; every field is a flag."""

    workers: int = option(2, "Worker processes.", least=1)
    parameter_servers: int = option(
        0, "Parameter server processes; if there are any, a chief is started too.", least=0
    )
    module: str = option("tf_dlrm.train", "Module that every process runs.")
    grace_seconds: float = option(
        20.0,
        "Seconds that processes have to end by themselves: after another has died, and again "
        "after a signal, before SIGKILL.",
        least=0,
        most=_MOST_SECONDS,
    )
    restart_workers: bool = option(
        True, "With parameter servers: whether a worker that dies is restarted."
    )
    max_restarts: int = option(3, "With parameter servers: most restarts of each worker.", least=0)
    threads_per_process: int = option(
        0,
        "CPU threads with which each process computes an op (TF_NUM_INTRAOP_THREADS); 0: "
        "TensorFlow's choice, one for each core.",
        least=0,
        most=_MOST_THREADS,
    )

    def validate(self) -> None:
        """Raises UserError on impossible numbers, flags without effect and unknown modules."""
        super().validate()
        if self.workers + self.parameter_servers > _MOST_PROCESSES:
            raise UserError(
                f"--workers={self.workers} and --parameter_servers={self.parameter_servers} are "
                f"more than {_MOST_PROCESSES} processes, too many for one machine."
            )
        if not self.parameter_servers:
            for name in ("restart_workers", "max_restarts"):
                if name in self.given():
                    raise UserError(
                        f"--{name} needs --parameter_servers: without them every worker needs "
                        "every other, so none can be restarted alone."
                    )
        if not _can_run(self.module):
            raise UserError(
                f"--module={self.module}: there is no such module that python -m can run."
            )


define_flags(LaunchOptions)


def _can_run(module: str) -> bool:
    if not all(part.isidentifier() for part in module.split(".")):
        return False
    try:
        spec = importlib.util.find_spec(module)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{module}.__main__")
    except (ImportError, ValueError):
        return False
    return spec is not None


def launch(options: LaunchOptions, arguments: Sequence[str]) -> int:
    """Runs `options.module` with `arguments` in every process of a cluster.

    Returns:
        The exit code of `tf_dlrm.launching.job.Job.run`.

    Raises:
        UserError: if a process cannot be started, or there is no free port.
    """
    command = [sys.executable, "-m", options.module, *arguments]
    members = roles(options.workers, options.parameter_servers)
    with reserved_ports(len(members)) as ports:
        tasks = [
            Task(role, index, f"127.0.0.1:{port}")
            for (role, index), port in zip(members, ports, strict=True)
        ]

        def environment(task: Task) -> Mapping[str, str]:
            # Whatever TF_CONFIG the launcher has itself is another cluster's.
            values = {**os.environ, "TF_CONFIG": tf_config(tasks, task)}
            values.setdefault("PYTHONUNBUFFERED", "1")
            if options.threads_per_process:
                values["TF_NUM_INTRAOP_THREADS"] = str(options.threads_per_process)
            return values

        described = (tasks, command, environment, options.grace_seconds, Screen())
        if not options.parameter_servers:
            return Job(*described).run()
        restarts = options.max_restarts if options.restart_workers else 0
        return ParameterServerJob(*described, restarts=restarts).run()


def main(argv: Sequence[str]) -> None:
    """Divides the command line at its first --, and runs; does not return."""
    place = argv.index("--") if "--" in argv else len(argv)
    own, arguments = list(argv[:place]), argv[place + 1 :]
    asks_for_help = any(argument.lstrip("-")[:4] in ("help", "?") for argument in own[1:])
    # Before absl sees them: the flags of training would all be unknown to it.
    if place == len(argv) and not asks_for_help:
        _refuse(
            "There is no --: the launcher's flags stand before it, those of the module after it, "
            "as in --workers=2 -- --flagfile=flags/quickstart.flags."
        )

    def run(rest: Sequence[str]) -> int:
        try:
            if rest[1:]:
                raise UserError(f"Unexpected argument {rest[1]!r}: options look like --name=value.")
            if sys.platform != "linux":
                raise UserError(f"The launcher needs Linux; this is {sys.platform}.")
            options = options_from_flags(LaunchOptions)
            options.validate()
            return launch(options, arguments)
        except UserError as error:
            _refuse(str(error))

    app.run(run, argv=own, flags_parser=parse_flags)


def _refuse(sentence: str) -> NoReturn:
    print(f"launch: {sentence}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main(sys.argv)
