"""Compiles the kernels against the TensorFlow that is installed, once, into a cache.

Not when the package is installed: a library that updates variables needs TensorFlow's C++ interface
and so fits the one release that it was compiled against; a user's next `pip install` of TensorFlow
would break it.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import logging
import os
import pathlib
import platform
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence

import tensorflow as tf

from tf_dlrm.kernels.cache import Cache

_LOG = logging.getLogger(__name__)

# The sources of the one library.
SOURCES = pathlib.Path(__file__).parent
_FLAGS = (
    "-O3",
    "-std=c++17",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-fno-trapping-math",
)
_PORTABLE: Mapping[str, Sequence[str]] = {"portable": ()}
# Instruction sets by the name that the sources have for them; each is chosen when it runs. They are
# linked in this order, the least first: of a function of the C++ library that all of them compiled,
# the linker keeps the first, which every processor must be able to run.
_X86_64: Mapping[str, Sequence[str]] = {
    **_PORTABLE,
    "avx2": ("-march=x86-64-v3",),
    "avx512": ("-march=x86-64-v4", "-mprefer-vector-width=512"),
}
_TIMEOUT_SECONDS = 300
_LINES_OF_COMPILER = 3


class BuildError(Exception):
    """The kernels cannot be compiled here; the message says why."""


class NoCompiler(BuildError):
    """Nothing is wrong, but there is nothing to compile the kernels with."""


def library(sources: pathlib.Path = SOURCES) -> str:
    """Returns the path of the compiled kernels of a folder, compiling them first if need be.

    The folder has `path.cc`, which is compiled for each instruction set, and `ops.cc`, TensorFlow's
    operations around it. Libraries are in the folder that the environment variable TF_DLRM_CACHE
    names, by default ~/.cache/tf_dlrm. Several processes may ask at once: one compiles, the others
    wait. The compiler is `g++`, or what the environment variable CXX says, as the shell would read
    it. Without one, a library of another's that fits all else serves.

    Args:
        sources: The folder.

    Raises:
        NoCompiler: If there is no compiler, and no library either.
        BuildError: If the compiler fails, or the cache cannot be written or trusted.
    """
    if os.name != "posix":
        raise NoCompiler("there are kernels for POSIX systems only")
    compiler = _compiler()
    # That of the compiler comes last: without one, any will do.
    stem = f"{sources.parent.name}-{_fingerprint(sources)}"
    folder = os.environ.get("TF_DLRM_CACHE") or "~/.cache/tf_dlrm"
    try:
        cache = Cache(pathlib.Path(folder).expanduser())
        if compiler is None:
            if path := cache.find(f"{stem}-*.so"):
                return path
            raise NoCompiler("there is no g++, and the environment variable CXX names no compiler")
        name = f"{stem}-{_digest(*compiler, _run([*compiler, '--version']))}.so"
        # Before anything is written: the cache may be read-only.
        if path := cache.find(name):
            return path
        with cache.work_folder() as work:
            if path := cache.find(name):  # another process was faster
                return path
            _LOG.warning("Compiling native kernels into %s, which happens once.", folder)
            return cache.keep(_compile(compiler, sources, work), name)
    except (OSError, RuntimeError) as error:  # RuntimeError: "~" where nobody has a home
        raise BuildError(
            f"the cache {folder} cannot be used: {error}. The environment variable TF_DLRM_CACHE "
            "may name another folder"
        ) from error


def _compiler() -> list[str] | None:
    """Returns the command of the compiler, or None without."""
    text = os.environ.get("CXX", "")
    try:
        command = shlex.split(text)
    except ValueError as error:
        raise BuildError(f"the environment variable CXX is {text!r}: {error}") from error
    if command:
        return command
    found = shutil.which("g++")
    return [found] if found else None


def _digest(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:16]


def _fingerprint(sources: pathlib.Path) -> str:
    """Returns a text that changes with all that a library must fit, but for its compiler."""
    versions = (tf.version.VERSION, tf.version.GIT_VERSION, platform.machine())
    # Two builds of one version may differ in their ABI, which is among TensorFlow's flags. Where
    # its files are does not matter.
    flags = [*tf.sysconfig.get_compile_flags(), *tf.sysconfig.get_link_flags()]
    flags = [flag for flag in flags if not flag.startswith(("-I", "-L"))]
    files = sorted(sources.glob("*.[ch]*"))
    return _digest(
        *versions,
        *platform.libc_ver(),
        repr((_FLAGS, _X86_64)),
        *flags,
        *(file.read_bytes() for file in files),
    )


def _compile(compiler: list[str], sources: pathlib.Path, work: pathlib.Path) -> pathlib.Path:
    """Returns the library, compiled in an empty folder."""
    x86_64 = platform.machine() in ("x86_64", "AMD64")
    paths = _X86_64 if x86_64 else _PORTABLE
    # TensorFlow's headers use much that they themselves call deprecated.
    common = [*compiler, *_FLAGS, "-w", *tf.sysconfig.get_compile_flags()]
    if x86_64:
        common.append("-DTF_DLRM_X86_64")
    objects = [str(work / "ops.o")]
    commands = [[*common, "-c", str(sources / "ops.cc"), "-o", objects[0]]]
    for name, flags in paths.items():
        objects.append(str(work / f"{name}.o"))
        options = [*flags, f"-DTF_DLRM_PATH={name}"]
        commands.append([*common, *options, "-c", str(sources / "path.cc"), "-o", objects[-1]])
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(_run, commands))
    whole = work / "kernels.so"
    _run([*compiler, "-shared", "-o", str(whole), *objects, *tf.sysconfig.get_link_flags()])
    if not whole.exists():
        raise BuildError(f"{shlex.join(compiler)} said nothing, and made no library")
    return whole


def _run(command: list[str]) -> str:
    """Returns what a command says."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_SECONDS,
            env=os.environ | {"LC_ALL": "C"},
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{command[0]} took more than {_TIMEOUT_SECONDS} seconds") from error
    except OSError as error:
        raise BuildError(f"the compiler {command[0]} cannot be run: {error}") from error
    if done.returncode != 0:
        lines = done.stderr.splitlines()
        lines = [line for line in lines if "error" in line] or lines
        said = "\n".join(lines[:_LINES_OF_COMPILER]) or "it said nothing"
        raise BuildError(f"the compiler {command[0]} failed with code {done.returncode}: {said}")
    return done.stdout
