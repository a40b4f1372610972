"""Becomes another program that dies with the process that started it (Linux only).

python tied.py PID PROGRAM [ARGUMENT ...]

PID is the process that starts this one. A program of its own, since code between fork and exec
(`preexec_fn` of `subprocess`) may wait for ever for a lock that another thread held at the fork,
and TensorFlow has threads. It imports nothing that is not needed: it runs before every child.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Ties this process to its parent, and becomes the program."""
    parent, *command = arguments
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != int(parent):  # it died before the line above
        os.kill(os.getpid(), signal.SIGKILL)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
