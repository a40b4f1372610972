"""Input files wherever they are: which there are, opened, and decompressed.

A path with a scheme (`s3://`, `gs://`, `hdfs://`, ...) goes through the file systems of pyarrow, so
that reading tables needs no TensorFlow.
"""

from __future__ import annotations

import bz2
import fnmatch
import glob
import gzip
import lzma
import os
import zlib
from collections.abc import Callable, Sequence
from typing import IO, Any

import pyarrow as pa
import pyarrow.fs as pa_fs

from tfrecords import files
from tfrecords.errors import DataError

_NOT_WHOLE = (gzip.BadGzipFile, zlib.error, lzma.LZMAError, OSError)


def file_system(path: str) -> tuple[pa_fs.FileSystem, str]:
    """The file system of a path with a scheme, and the path within it.

    Raises:
        DataError: If there is none, or it cannot be reached.
    """
    endpoint = os.environ.get("S3_ENDPOINT") or os.environ.get("AWS_ENDPOINT_URL")
    try:
        if path[:5].lower() == "s3://" and endpoint:
            scheme, _, host = endpoint.rpartition("://")
            region = os.environ.get("AWS_REGION") or "us-east-1"
            store = pa_fs.S3FileSystem(
                endpoint_override=host, scheme=scheme or "https", region=region
            )
            return store, path[5:]
        return pa_fs.FileSystem.from_uri(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} cannot be reached: {error}.") from error


def file_info(path: str) -> pa_fs.FileInfo:
    """What is known of a file: its type, size and time of the last change.

    Raises:
        DataError: If it cannot be reached.
    """
    system, place = file_system(path) if files.is_remote(path) else (pa_fs.LocalFileSystem(), path)
    try:
        return system.get_file_info(files.local(place))
    except OSError as error:
        raise DataError(f"{path} cannot be reached: {error}.") from error


def open_input(path: str) -> IO[bytes]:
    """Opens a file to read its bytes, from any place on.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        if not files.is_remote(path):
            files.check_regular(path)
            return open(files.local(path), "rb")
        system, place = file_system(path)
        return system.open_input_file(place)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error


def _zstd(raw: IO[bytes]) -> Any:
    return pa.CompressedInputStream(pa.PythonFile(raw, "r"), "zstd")


# By the ends of names: what such a file is called, and how it is read.
COMPRESSIONS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    ".gz": ("gzip", lambda raw: gzip.GzipFile(fileobj=raw)),
    ".bz2": ("bzip2", bz2.BZ2File),
    ".xz": ("xz", lzma.LZMAFile),
    ".zst": ("zstd", _zstd),
}


def compression(path: str) -> str:
    """The end of a name that says how the file is compressed; empty where it is not."""
    end = os.path.splitext(path)[1]
    return end if end in COMPRESSIONS else ""


def decompressed(path: str, raw: IO[bytes]) -> Any:
    """The text of a file, compressed as its name says: what has `read`."""
    end = compression(path)
    return COMPRESSIONS[end][1](raw) if end else raw


def read(stream: Any, size: int, path: str, done: int) -> bytes:
    """Reads from what `decompressed` returned.

    Args:
        stream: The stream.
        size: Bytes to read, at most.
        path: The file, for messages.
        done: Bytes of text that were read before.

    Raises:
        DataError: If that is not possible.
    """
    end = compression(path)
    try:
        return bytes(stream.read(size))
    except _NOT_WHOLE + (EOFError,) as error:
        # As Python says it, and as Arrow does.
        if isinstance(error, EOFError) or "Truncated compressed" in str(error):
            raise DataError(
                f"{path} ends in the middle of its compressed data, after about {done} bytes of "
                "text: it is truncated. Fetch it again."
            ) from None
        reason = getattr(error, "strerror", None) or error
        if end and not getattr(error, "errno", None):
            raise DataError(f"{path} is no whole {COMPRESSIONS[end][0]} file: {reason}.") from error
        raise DataError(f"{path} cannot be read: {reason}.") from error


def expand(flag: str, names: Sequence[str], folders: bool = True) -> list[str]:
    """The files that names, patterns and folders mean, those of each in the order of their names.

    Args:
        flag: The flag that names them, for messages.
        names: Paths, also remote ones; a pattern has `*`, `?` or `[`.
        folders: Whether the files of a folder are meant by it; else it is left as it is.

    Raises:
        DataError: If a pattern or a folder has no file.
    """
    found: list[str] = []
    for name in names:
        if glob.has_magic(name) and (files.is_remote(name) or not os.path.exists(name)):
            found += _matching(flag, name)
        elif folders and _is_folder(name):
            found += _matching(flag, files.join(name, "*"))
        else:
            found.append(name)
    return found


def _is_folder(name: str) -> bool:
    if files.is_remote(name):
        return file_info(name).type == pa_fs.FileType.Directory
    return os.path.isdir(files.local(name))


def _matching(flag: str, pattern: str) -> list[str]:
    """The files of a pattern, but for those whose names begin with a dot or an underscore."""
    if files.is_remote(pattern):
        folder, _, names = pattern.rpartition("/")
        system, place = file_system(folder)
        listed = system.get_file_info(pa_fs.FileSelector(place, allow_not_found=True))
        paths = [f"{folder}/{info.base_name}" for info in listed if info.is_file]
        matching = [path for path in paths if fnmatch.fnmatchcase(path.rpartition("/")[2], names)]
    else:
        matching = [path for path in glob.glob(files.local(pattern)) if os.path.isfile(path)]
    matching = sorted(
        path for path in matching if not os.path.basename(path).startswith((".", "_"))
    )
    if not matching:
        raise DataError(f"{flag}={pattern}: no file has such a name.")
    return matching
