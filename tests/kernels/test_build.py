"""How libraries are compiled into the cache, most with a compiler that only pretends."""

import contextlib
import errno
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import threading

import pytest
import tensorflow as tf

from tf_dlrm.kernels import build, cache, use
from tf_dlrm.kernels.build import BuildError, NoCompiler, library

# The least that is a library of TensorFlow's: each instruction set returns a number of its own.
_PATH = "namespace TF_DLRM_PATH { int Number() { return %d; } }\n"
_OPS = 'extern "C" int Number() { return 1; }\n'
# Says how it was called, and makes what it was asked for.
_COMPILER = """#!/bin/sh
case "$*" in *--version*) echo "{version}"; exit;; esac
echo "$*" >> {log}
while [ "$1" != -o ]; do shift; done
echo made > "$2"
"""


@pytest.fixture
def sources(tmp_path, monkeypatch):
    monkeypatch.setenv("TF_DLRM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    folder = tmp_path / "tiny" / "kernels"
    folder.mkdir(parents=True)
    (folder / "path.cc").write_text(_PATH % 1)
    (folder / "ops.cc").write_text(_OPS)
    return folder


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """A compiler that CXX names; what it was called with is in `calls`."""
    path = tmp_path / "compiler"
    _write(path, _COMPILER.format(version="1.0", log=tmp_path / "calls"))
    monkeypatch.setenv("CXX", str(path))
    return path


def _write(path, script):
    path.write_text(script)
    path.chmod(0o755)


def _calls(tmp_path):
    path = tmp_path / "calls"
    return path.read_text().splitlines() if path.exists() else []


def _held(folder):
    return sorted(path.name for path in folder.iterdir())


def test_of_two_that_ask_at_once_one_compiles_and_both_get_the_library(sources, compiler, tmp_path):
    paths = []
    both_are_there = threading.Barrier(2)

    def ask():
        both_are_there.wait()
        paths.append(library(sources))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 2 and len(set(paths)) == 1
    assert len(_calls(tmp_path)) == 5  # four objects and their library
    assert _held(tmp_path / "cache") == [".lock", pathlib.Path(paths[0]).name]
    assert pathlib.Path(paths[0]).name.startswith("tiny-")
    assert pathlib.Path(paths[0]).read_bytes().startswith(b"made\n")


def test_whatever_a_library_must_fit_is_in_its_name(sources, compiler, tmp_path, monkeypatch):
    names = [library(sources)]

    def add():
        names.append(library(sources))
        assert library(sources) == names[-1]

    (sources / "path.cc").write_text(_PATH % 2)
    add()
    (sources / "rules.h").write_text("// a header\n")
    add()
    monkeypatch.setattr(build, "_FLAGS", ("-O1",))
    add()
    monkeypatch.setattr(tf.version, "VERSION", "99.0")
    add()
    # As another build of one release.
    flags = [*tf.sysconfig.get_compile_flags(), "-D_GLIBCXX_USE_CXX11_ABI=7"]
    monkeypatch.setattr(tf.sysconfig, "get_compile_flags", lambda: flags)
    add()
    monkeypatch.setattr(build.platform, "libc_ver", lambda: ("glibc", "9.9"))
    add()
    monkeypatch.setattr(build.platform, "machine", lambda: "aarch64")
    add()
    _write(compiler, _COMPILER.format(version="2.0", log=tmp_path / "calls"))
    add()
    monkeypatch.setenv("CXX", f"{compiler} -O2")
    add()
    assert len(set(names)) == len(names) == 10
    # Where the package is does not matter.
    moved = [f"{flag}/elsewhere" if flag.startswith("-I") else flag for flag in flags]
    assert moved != flags
    monkeypatch.setattr(tf.sysconfig, "get_compile_flags", lambda: moved)
    assert library(sources) == names[-1]


def test_what_the_compiler_complains_of_is_said_and_nothing_is_left(sources, tmp_path):
    (sources / "path.cc").write_text('#include "missing.h"\n')
    with pytest.raises(BuildError, match="failed with code 1: .*missing.h"):
        library(sources)
    assert _held(tmp_path / "cache") == [".lock"]


def test_a_compiler_may_have_arguments(sources, compiler, tmp_path, monkeypatch):
    wrapper = tmp_path / "my wrapper"
    _write(wrapper, '#!/bin/sh\nexec "$@"\n')
    monkeypatch.setenv("CXX", f"'{wrapper}' {compiler} --fast")
    library(sources)
    calls = _calls(tmp_path)
    assert len(calls) == 5 and all(call.startswith("--fast ") for call in calls)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("/bin/false", "/bin/false failed with code 1: it said nothing"),
        ("/bin/true", "/bin/true said nothing, and made no library"),
        ("/no/such/compiler", "/no/such/compiler cannot be run: .*No such file"),
        ("/tmp", "/tmp cannot be run: .*Permission"),
        ("g++ '", r"CXX is \"g\+\+ '\": No closing quotation"),
    ],
)
def test_a_compiler_that_does_not_compile_is_named(sources, command, message, monkeypatch):
    monkeypatch.setenv("CXX", command)
    with pytest.raises(BuildError, match=message) as caught:
        library(sources)
    assert not isinstance(caught.value, NoCompiler)
    assert "cache" not in str(caught.value)


def test_a_compiler_that_is_killed_is_named(sources, compiler):
    _write(compiler, '#!/bin/sh\n[ "$1" = --version ] || kill -9 $$\n')
    with pytest.raises(BuildError, match="failed with code -9: it said nothing"):
        library(sources)


def test_a_compiler_that_takes_too_long_is_named(sources, compiler, monkeypatch):
    _write(compiler, '#!/bin/sh\n[ "$1" = --version ] || exec sleep 20\n')
    monkeypatch.setattr(build, "_TIMEOUT_SECONDS", 0.2)
    with pytest.raises(BuildError, match="took more than 0.2 seconds"):
        library(sources)


def test_a_failed_build_is_an_error_in_the_log_and_no_compiler_a_warning(
    sources, tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("TF_DLRM_KERNELS", "auto")
    with monkeypatch.context() as patch:
        patch.setenv("CXX", "/bin/false")
        assert use._load.__wrapped__(sources)[0] is None
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert "There should be native kernels here, but the compiler /bin/false" in record.message
    assert "TF_DLRM_KERNELS=tensorflow says that this is wanted." in record.message
    caplog.clear()
    monkeypatch.setenv("PATH", "")
    assert use._load.__wrapped__(sources)[0] is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_ready_library_is_used_where_nothing_can_be_written(sources, compiler, monkeypatch):
    path = library(sources)

    @contextlib.contextmanager
    def read_only(self):
        raise OSError(errno.EROFS, "Read-only file system")
        yield

    monkeypatch.setattr(build.Cache, "work_folder", read_only)
    assert library(sources) == path
    (sources / "path.cc").write_text(_PATH % 2)
    with pytest.raises(BuildError, match="cache .*cannot be used: .*Read-only.*TF_DLRM_CACHE"):
        library(sources)


def test_a_ready_library_is_used_where_there_is_no_compiler(sources, compiler, monkeypatch):
    path = library(sources)
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "")
    assert library(sources) == path
    (sources / "path.cc").write_text(_PATH % 2)
    with pytest.raises(NoCompiler, match="there is no g"):
        library(sources)


def test_a_damaged_library_is_compiled_anew(sources, compiler, tmp_path):
    path = pathlib.Path(library(sources))
    whole = path.read_bytes()
    for damaged in (b"", whole[:20], whole[:-1] + b"?"):
        path.write_bytes(damaged)
        assert library(sources) == str(path)
        assert path.read_bytes() == whole
    assert len(_calls(tmp_path)) == 4 * 5


def test_a_cache_that_cannot_be_used_is_named_with_the_way_out(sources, tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(BuildError, match="cache cannot be used: it is not a folder.*TF_DLRM_CACHE"):
        library(sources)
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    monkeypatch.setenv("TF_DLRM_CACHE", str(tmp_path / "open"))
    with pytest.raises(BuildError, match=r"others \(mode 777\).*name a folder of your own"):
        library(sources)
    assert _held(tmp_path / "open") == []
    monkeypatch.setenv("TF_DLRM_CACHE", "~nobody_of_this_name/cache")
    with pytest.raises(BuildError, match="cannot be used: Could not determine home"):
        library(sources)


@pytest.mark.parametrize("machine", ["aarch64", "arm64", "ppc64le"])
def test_other_processors_compile_the_portable_path(
    sources, compiler, machine, tmp_path, monkeypatch
):
    monkeypatch.setattr(build.platform, "machine", lambda: machine)
    library(sources)
    ops, path, link = sorted(_calls(tmp_path), key=lambda call: ("-shared" in call, "path" in call))
    assert "-DTF_DLRM_PATH=portable" in path and "portable.o" in link
    assert not any("-march" in call or "TF_DLRM_X86_64" in call for call in (ops, path, link))


def test_other_systems_have_no_kernels(sources, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    spec = importlib.util.find_spec(cache.__name__)
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    assert again.fcntl is None
    with monkeypatch.context() as patch:
        patch.setattr(os, "name", "nt")
        with pytest.raises(NoCompiler) as caught:
            library(sources)
    assert "for POSIX systems only" in str(caught.value)


@pytest.mark.process
def test_of_two_processes_one_compiles_and_both_load_the_library(sources, tmp_path):
    compiler = tmp_path / "counting_compiler"
    _write(
        compiler,
        f'#!/bin/sh\n[ "$1" = --version ] || echo >> {tmp_path}/calls\n'
        f'exec {shutil.which("g++")} "$@"\n',
    )
    code = (
        "import pathlib, tensorflow as tf; from tf_dlrm.kernels.build import library\n"
        f"path = library(pathlib.Path({str(sources)!r}))\n"
        "tf.load_op_library(path); print(path)"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ | {"CXX": str(compiler)},
            stdout=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    paths = {process.communicate(timeout=300)[0].decode().splitlines()[-1] for process in processes}
    (path,) = paths
    assert _held(tmp_path / "cache") == [".lock", pathlib.Path(path).name]
    assert len((tmp_path / "calls").read_text()) == 5  # four objects and their library
