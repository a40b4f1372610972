"""Compiles the kernels against the TensorFlow that is installed, once, into a cache.

Not when the package is installed: a library that updates variables needs TensorFlow's C++ interface
and so fits the one release that it was compiled against; a user's next `pip install` of TensorFlow
would break it.
"""

from __future__ import annotations

import concurrent.futures
import fcntl
import hashlib
import logging
import os
import pathlib
import platform
import shutil
import subprocess
import tempfile

import tensorflow as tf

_LOG = logging.getLogger(__name__)

_FLAGS = ("-O3", "-std=c++17", "-fPIC", "-fno-math-errno", "-fno-trapping-math")
# Instruction sets by the name that the sources have for them; each is chosen when it runs. They are
# linked in this order, the least first: of a function of the C++ library that all of them compiled,
# the linker keeps the first, which every processor must be able to run.
_PATHS = {
    "portable": (),
    "avx2": ("-march=x86-64-v3",),
    "avx512": ("-march=x86-64-v4", "-mprefer-vector-width=512"),
}
_TIMEOUT_SECONDS = 300


class BuildError(Exception):
    """The kernels cannot be compiled here; the message says why."""


def library(sources: pathlib.Path) -> str:
    """Returns the path of the compiled kernels of a folder, compiling them first if need be.

    The folder has `path.cc`, which is compiled for each instruction set, and `ops.cc`, TensorFlow's
    operations around it. Libraries are in the folder that the environment variable TF_DLRM_CACHE
    names, by default ~/.cache/tf_dlrm. Several processes may ask at once: one compiles, the others
    wait.

    Args:
        sources: The folder.

    Raises:
        BuildError: If there is no compiler, or it fails.
    """
    if platform.machine() != "x86_64":
        raise BuildError(f"there are kernels for x86_64 only, and this is {platform.machine()}")
    compiler = os.environ.get("CXX") or shutil.which("g++")
    if not compiler:
        raise BuildError("there is no g++, and the environment variable CXX names no compiler")
    folder = pathlib.Path(os.environ.get("TF_DLRM_CACHE") or "~/.cache/tf_dlrm").expanduser()
    path = folder / f"{sources.parent.name}-{_fingerprint(sources, compiler)}.so"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / ".lock", "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                _LOG.info("compiling native kernels into %s; this happens once", path)
                _compile(compiler, sources, path)
    except OSError as error:
        raise BuildError(f"the cache {folder} cannot be written ({error})") from error
    return str(path)


def _fingerprint(sources: pathlib.Path, compiler: str) -> str:
    """Returns a text that changes with the sources, the flags, the compiler and TensorFlow."""
    digest = hashlib.sha256()
    for part in (tf.version.VERSION, tf.version.GIT_VERSION, compiler, repr((_FLAGS, _PATHS))):
        digest.update(part.encode())
    for source in sorted(sources.glob("*.[ch]*")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def _compile(compiler: str, sources: pathlib.Path, path: pathlib.Path) -> None:
    # TensorFlow's headers use much that they themselves call deprecated.
    common = [compiler, *_FLAGS, "-w", *tf.sysconfig.get_compile_flags()]
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        objects = [f"{folder}/ops.o"]
        commands = [[*common, "-c", str(sources / "ops.cc"), "-o", objects[0]]]
        for name, flags in _PATHS.items():
            objects.append(f"{folder}/{name}.o")
            flags = (*flags, f"-DTF_DLRM_PATH={name}")
            commands.append([*common, *flags, "-c", str(sources / "path.cc"), "-o", objects[-1]])
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(_run, commands))
        whole = f"{folder}/kernels.so"
        _run([compiler, "-shared", "-o", whole, *objects, *tf.sysconfig.get_link_flags()])
        os.replace(whole, path)


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{command[0]} took more than {_TIMEOUT_SECONDS} seconds") from error
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").splitlines()
        first = next((line for line in lines if "error" in line), *lines[:1])
        raise BuildError(f"{command[0]} failed: {first}") from error
