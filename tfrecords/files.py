"""The few operations on files that this package needs, on local paths and on object stores.

A path with a scheme (`s3://`, `gs://`, `az://`, `hdfs://`, ...) goes through TensorFlow's file
systems, which tensorflow-io brings along; any other path through the operating system, so that
nothing here imports TensorFlow before a remote path is met.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

from tfrecords.errors import DataError

_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_TOKEN_BYTES = 4
# What `write_bytes` is at work on.
_INCOMPLETE = re.compile(rf".+\.[0-9a-f]{{{2 * _TOKEN_BYTES}}}\.incomplete")
# An answer from an object store takes tens of milliseconds whatever it holds.
_REQUESTS_AT_ONCE = 16


def is_remote(path: str) -> bool:
    """Whether a path has a scheme other than `file://`; imports nothing and looks at nothing."""
    found = _SCHEME.match(path)
    return found is not None and found.group(1).lower() != "file"


def prepare(path: str) -> None:
    """Makes sure that TensorFlow knows the file system of a path; nothing to do for a local one.

    Raises:
        DataError: If tensorflow-io is missing or does not load, or has no such file system.
    """
    if is_remote(path):
        _gfile(path)


def open_file(path: str, mode: str = "rb") -> IO[Any]:
    """Opens a file; "rb", "r" and, for whole files, "wb" and "w" (text is UTF-8).

    A remote file that is written appears when it is closed. Use it within `explained`, since
    remote files are opened by their first read or write.

    Raises:
        DataError: If a local one to read is a pipe or a device: reading it may never end.
    """
    if "r" in mode:
        check_regular(path)
    if not is_remote(path):
        return open(local(path), mode, encoding=None if "b" in mode else "utf-8")
    file = _gfile(path).GFile(path, mode)
    # Arrow asks what it reads, and a GFile does not say. It never is: one that was closed opens
    # itself again.
    file.closed = False
    return file


def read_bytes(path: str) -> bytes:
    """The content of a file.

    Raises:
        FileNotFoundError: If there is none.
        DataError: If a remote file cannot be read.
        OSError: If a local one cannot be read.
    """
    with explained(path), open_file(path) as file:
        return file.read()


def check_regular(path: str) -> None:
    """Refuses a local path that is a pipe, a socket or a device: reading it may never end.

    Raises:
        DataError: If it is one. A missing file and a folder are left to whoever opens it.
    """
    if is_remote(path):
        return
    with contextlib.suppress(OSError):
        mode = os.stat(local(path)).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise DataError(f"{path} is a pipe, a socket or a device, where a file is needed.")


def write_bytes(path: str, data: bytes) -> None:
    """Writes a whole small file: readers see the earlier content or all of the new one.

    Raises:
        DataError: If a remote file cannot be written.
        OSError: If a local one cannot be written; it has the file's name.
    """
    if is_remote(path):
        # One PUT of an object store is whole or nothing by itself, and renaming is not.
        with explained(path), open_file(path, "wb") as file:
            file.write(data)
        return
    try:
        if os.path.exists(local(path)) and not os.path.isfile(local(path)):
            # A device such as /dev/null, which a file must not take the place of; or a folder.
            with open(local(path), "wb") as file:
                file.write(data)
            return
        _replace(local(path), data)
    except OSError as error:
        # That of a full disk names no file.
        raise OSError(error.errno, error.strerror, path) from error
    sync_folder(os.path.dirname(local(path)))


def _replace(path: str, data: bytes) -> None:
    # A name of its own, so that two processes that write the same file do not mix their bytes.
    target = f"{path}.{secrets.token_hex(_TOKEN_BYTES)}.incomplete"
    try:
        with open(target, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(target, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(target)
        raise


def remove_incomplete(folder: str) -> None:
    """Removes from a local folder what killed processes left in `write_bytes`.

    Args:
        folder: A folder in which no other process writes at this moment.
    """
    for name in os.listdir(local(folder)):
        if _INCOMPLETE.fullmatch(name):
            os.unlink(os.path.join(local(folder), name))


def sync_folder(path: str) -> None:
    """Makes sure that the names in a local folder survive a power cut, where that is possible."""
    # Some file systems cannot open or sync folders, and have nothing better.
    with contextlib.suppress(OSError):
        descriptor = os.open(path or ".", os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def exists(path: str) -> bool:
    """Whether there is a file or folder; on an object store a folder is what holds a file."""
    if not is_remote(path):
        return os.path.exists(local(path))
    with explained(path):
        return bool(_gfile(path).exists(_folder(path)))


def isdir(path: str) -> bool:
    """Whether there is a folder."""
    if not is_remote(path):
        return os.path.isdir(local(path))
    with explained(path):
        return _gfile(path).isdir(_folder(path))


def isfile(path: str) -> bool:
    """Whether there is a file."""
    if not is_remote(path):
        return os.path.isfile(local(path))
    with explained(path):
        # An object and a prefix of the same name can stand side by side.
        return _gfile(path).exists(path) and not _gfile(path).isdir(path)


def listdir(path: str) -> list[str]:
    """Names of the files and folders in a folder, sorted, without "/" at their end.

    Raises:
        FileNotFoundError: If there is no such folder.
    """
    if not is_remote(path):
        return sorted(os.listdir(local(path)))
    with explained(path):
        names = _gfile(path).listdir(_folder(path))
    return sorted({name.rstrip("/") for name in names} - {""})


def walk(path: str) -> list[str]:
    """Paths of all files in a folder and the folders below it, relative to it, sorted."""
    found = []
    if is_remote(path):
        with explained(path):
            tree = list(_gfile(path).walk(_folder(path)))
    else:
        tree = list(os.walk(local(path)))
    top = tree[0][0] if tree else path
    for folder, _, names in tree:
        below = folder[len(top) :].strip("/")
        found += [join(below, name) if below else name for name in names if name]
    return sorted(found)


def size(path: str) -> int:
    """Size of a file in bytes.

    Raises:
        FileNotFoundError: If there is none.
    """
    if not is_remote(path):
        return os.path.getsize(local(path))
    with explained(path):
        return int(_gfile(path).stat(path).length)


def sizes(paths: Sequence[str]) -> list[int | None]:
    """Sizes of files in bytes, None for one that is missing; remote ones are asked at once."""

    def of(path: str) -> int | None:
        try:
            return size(path) if isfile(path) else None
        except FileNotFoundError:
            return None

    if not any(map(is_remote, paths)):
        return [of(path) for path in paths]
    with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as threads:
        return list(threads.map(of, paths))


def makedirs(path: str) -> None:
    """Makes a folder and those above it; one that is there is left alone."""
    if not is_remote(path):
        os.makedirs(local(path), exist_ok=True)
    else:
        with explained(path):
            _gfile(path).makedirs(path)


def remove(path: str) -> None:
    """Removes a file."""
    if not is_remote(path):
        os.remove(local(path))
    else:
        with explained(path):
            _gfile(path).remove(path)


def remove_tree(path: str) -> None:
    """Removes a folder and all in it, as far as that is possible."""
    if not is_remote(path):
        shutil.rmtree(local(path), ignore_errors=True)
    else:
        with contextlib.suppress(DataError, FileNotFoundError), explained(path):
            _gfile(path).rmtree(_folder(path))


def copy(source: str, target: str) -> None:
    """Copies a file, also between file systems; one that is there is replaced."""
    if not is_remote(source) and not is_remote(target):
        shutil.copyfile(local(source), local(target))
        return
    with explained(target):
        _gfile(target if is_remote(target) else source).copy(
            local(source), local(target), overwrite=True
        )


def copy_all(pairs: Sequence[tuple[str, str]]) -> None:
    """Copies files, several at once: (source, target) each."""
    with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as threads:
        for _ in threads.map(lambda pair: copy(*pair), pairs):
            pass


def join(folder: str, *names: str) -> str:
    """Path of something in a folder."""
    if not is_remote(folder):
        return os.path.join(folder, *names)
    return "/".join([folder.rstrip("/"), *names])


def absolute(path: str) -> str:
    """The path as it is valid from any working folder."""
    return path.rstrip("/") if is_remote(path) else os.path.abspath(local(path))


def local(path: str) -> str:
    """A local path without its `file://`; any other path as it is."""
    return path[len("file://") :] if path[:7].lower() == "file://" else path


@contextlib.contextmanager
def explained(path: str) -> Iterator[None]:
    """Turns what TensorFlow raises about a remote file into a sentence.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        DataError: If it can't be reached, read or written; names the path and what is wrong.
    """
    if not is_remote(path):
        yield
        return
    _gfile(path)
    import tensorflow as tf

    try:
        yield
    except tf.errors.NotFoundError as error:
        raise FileNotFoundError(f"There is no {path} ({_reason(error)}).") from error
    except (tf.errors.OpError, RuntimeError) as error:  # Azure's client raises the latter
        raise DataError(f"{path} can't be reached: {_reason(error)}.{_advice(path)}") from error


def _reason(error: Any) -> str:
    text = getattr(error, "message", None) or str(error) or type(error).__name__
    return text.strip().splitlines()[0].rstrip(" .:")


def _advice(path: str) -> str:
    if path[:5].lower() != "s3://":
        return ""
    return (
        " The keys, the region and the address of the store come from AWS_ACCESS_KEY_ID, "
        "AWS_SECRET_ACCESS_KEY, AWS_REGION and S3_ENDPOINT (or from AWS's own files)."
    )


def _folder(path: str) -> str:
    # Object stores look for "bucket" without the slash as if it were an object.
    return path if path.count("/") > 2 else path + "/"


def _gfile(path: str) -> Any:
    found = _SCHEME.match(path)
    scheme = found.group(1).lower() if found else ""
    schemes = with_tensorflow_io(f"The {scheme}:// path {path}")
    if scheme not in schemes:
        raise DataError(
            f"{path} has the scheme {scheme}://, which nothing here can read; "
            f"{', '.join(f'{name}://' for name in schemes)} and plain paths are possible."
        )
    import tensorflow as tf

    return tf.io.gfile


def with_tensorflow_io(what: str) -> tuple[str, ...]:
    """Loads tensorflow-io, and returns the schemes that TensorFlow knows then.

    Args:
        what: What needs it, for a message.

    Raises:
        DataError: If it is missing, or does not load.
    """
    try:
        return _remote_schemes()
    except DataError as error:
        raise DataError(f"{what} needs tensorflow-io, which {error}") from error


@functools.cache
def _remote_schemes() -> tuple[str, ...]:
    import tensorflow as tf

    command = "`pip install 'tf-dlrm[io]'` installs it, with TensorFlow 2.17"
    try:
        import tensorflow_io  # noqa: F401  (registers the file systems)
    except ImportError as error:
        raise DataError(
            f"is not installed: {command}, the newest TensorFlow that it works with."
        ) from error
    except Exception as error:
        raise DataError(
            "does not load in TensorFlow "
            f"{tf.__version__} ({str(error).splitlines()[0] if str(error) else error!r}): "
            f"{command}."
        ) from error
    schemes = {name for name in tf.io.gfile.get_registered_schemes() if name not in ("", "file")}
    if not {"s3", "az", "hdfs"} <= schemes:
        raise DataError(
            f"does not load its file systems in TensorFlow {tf.__version__}: {command}."
        )
    _end_without_destructors()
    return tuple(sorted(schemes))


def _end_without_destructors() -> None:
    """Ends this process, when it ends, by `_exit` with the status that it has.

    The S3 client of tensorflow-io 0.35 and later destroys its logger before its connections and
    aborts, so that a program that did all it should ends with code 134 (tensorflow/io issue 2039).
    This runs after Python has ended, so nothing that a program registered is left out.
    """
    c = ctypes.CDLL(None)
    if hasattr(c, "on_exit"):  # glibc's; it hands the status over as the first argument
        c.on_exit(c._exit, None)
