"""Compiles the kernels against the TensorFlow that is installed, once, into a cache.

Not when the package is installed: a library that updates variables needs TensorFlow's C++ interface
and so fits the one release that it was compiled against; a user's next `pip install` of TensorFlow
would break it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import pathlib
import platform
import shutil
import subprocess
import tempfile

import tensorflow as tf

_SOURCES = pathlib.Path(__file__).parent
_FLAGS = ("-O3", "-std=c++17", "-fPIC", "-fno-math-errno", "-fno-trapping-math")
# Instruction sets by the name that the sources have for them; each is chosen when it runs.
_PATHS = {
    "avx512": ("-march=x86-64-v4", "-mprefer-vector-width=512"),
    "avx2": ("-march=x86-64-v3",),
    "portable": (),
}
_TIMEOUT_SECONDS = 300


class BuildError(Exception):
    """The kernels cannot be compiled here; the message says why."""


def library() -> str:
    """Returns the path of the compiled kernels, compiling them first if need be.

    They are in the folder that the environment variable TF_DLRM_CACHE names, by default
    ~/.cache/tf_dlrm. Several processes may ask at once: one compiles, the others wait.

    Raises:
        BuildError: If there is no compiler, or it fails.
    """
    if platform.machine() != "x86_64":
        raise BuildError(f"there are kernels for x86_64 only, and this is {platform.machine()}")
    compiler = os.environ.get("CXX") or shutil.which("g++")
    if not compiler:
        raise BuildError("there is no g++, and the environment variable CXX names no compiler")
    folder = pathlib.Path(os.environ.get("TF_DLRM_CACHE") or "~/.cache/tf_dlrm").expanduser()
    path = folder / f"kernels-{_fingerprint(compiler)}.so"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / ".lock", "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                _compile(compiler, path)
    except OSError as error:
        raise BuildError(f"the cache {folder} cannot be written ({error})") from error
    return str(path)


def _fingerprint(compiler: str) -> str:
    """Returns a text that changes with the sources, the flags, the compiler and TensorFlow."""
    digest = hashlib.sha256()
    for part in (tf.version.VERSION, tf.version.GIT_VERSION, compiler, repr((_FLAGS, _PATHS))):
        digest.update(part.encode())
    for source in sorted(_SOURCES.glob("*.[ch]*")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def _compile(compiler: str, path: pathlib.Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        objects = []
        for name, flags in _PATHS.items():
            objects.append(f"{folder}/{name}.o")
            source = str(_SOURCES / "path.cc")
            command = [*_FLAGS, *flags, f"-DTF_DLRM_PATH={name}", "-c", source, "-o", objects[-1]]
            _run([compiler, *command])
        objects.append(f"{folder}/ops.o")
        # TensorFlow's headers use much that they themselves call deprecated.
        flags = [*_FLAGS, "-w", *tf.sysconfig.get_compile_flags()]
        _run([compiler, *flags, "-c", str(_SOURCES / "ops.cc"), "-o", objects[-1]])
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
