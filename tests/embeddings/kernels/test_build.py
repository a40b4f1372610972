"""How libraries are compiled into the cache, with one of a few lines."""

import os
import pathlib
import shutil
import subprocess
import sys
import threading

import pytest

from tf_dlrm.embeddings.kernels import build
from tf_dlrm.embeddings.kernels.build import BuildError, library

# The least that is a library of TensorFlow's: each instruction set returns a number of its own.
_PATH = "namespace TF_DLRM_PATH { int Number() { return %d; } }\n"
_OPS = 'extern "C" int Number() { return 1; }\n'


@pytest.fixture
def sources(tmp_path, monkeypatch):
    monkeypatch.setenv("TF_DLRM_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "tiny" / "kernels"
    folder.mkdir(parents=True)
    (folder / "path.cc").write_text(_PATH % 1)
    (folder / "ops.cc").write_text(_OPS)
    return folder


def _held(cache):
    return sorted(path.name for path in cache.iterdir())


def test_of_two_that_ask_at_once_one_compiles_and_both_get_the_library(
    sources, tmp_path, monkeypatch
):
    compiled = []
    compile_one = build._compile
    both_are_there = threading.Barrier(2)

    def counted(*arguments):
        compiled.append(arguments)
        compile_one(*arguments)

    monkeypatch.setattr(build, "_compile", counted)
    paths = []

    def ask():
        both_are_there.wait()
        paths.append(library(sources))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(compiled) == 1 and len(paths) == 2 and len(set(paths)) == 1
    assert _held(tmp_path / "cache") == [".lock", pathlib.Path(paths[0]).name]
    assert pathlib.Path(paths[0]).name.startswith("tiny-")


def test_other_sources_flags_or_compilers_are_another_library(sources, monkeypatch):
    monkeypatch.setattr(build, "_compile", lambda compiler, folder, path: path.touch())
    names = {library(sources)}
    assert library(sources) in names
    (sources / "path.cc").write_text(_PATH % 2)
    names.add(library(sources))
    (sources / "rules.h").write_text("// a header\n")
    names.add(library(sources))
    monkeypatch.setenv("CXX", "clang++")
    names.add(library(sources))
    monkeypatch.setattr(build, "_FLAGS", ("-O1",))
    names.add(library(sources))
    monkeypatch.setattr(build.tf.version, "VERSION", "99.0")
    names.add(library(sources))
    assert len(names) == 6


def test_what_the_compiler_complains_of_is_said_and_nothing_is_left(sources, tmp_path):
    (sources / "path.cc").write_text('#include "missing.h"\n')
    with pytest.raises(BuildError, match="failed: .*missing.h"):
        library(sources)
    assert _held(tmp_path / "cache") == [".lock"]


def test_a_cache_that_cannot_be_written_is_named(sources, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(BuildError, match="the cache .*cache cannot be written"):
        library(sources)


def test_other_processors_have_no_kernels(sources, monkeypatch):
    monkeypatch.setattr(build.platform, "machine", lambda: "aarch64")
    with pytest.raises(BuildError, match="for x86_64 only, and this is aarch64"):
        library(sources)


@pytest.mark.process
def test_of_two_processes_one_compiles_and_both_load_the_library(sources, tmp_path):
    compiler = tmp_path / "counting_compiler"
    compiler.write_text(f'#!/bin/sh\necho >> {tmp_path}/calls\nexec {shutil.which("g++")} "$@"\n')
    compiler.chmod(0o755)
    code = (
        "import pathlib, tensorflow as tf; from tf_dlrm.embeddings.kernels.build import library\n"
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
