"""The kernels under the address, undefined-behaviour and thread sanitizers."""

import os
import pathlib
import shlex
import subprocess
import sys

import pytest

from tf_dlrm.kernels.build import SOURCES

_FLAGS = ("-O1", "-g", "-std=c++17", "-pthread", "-fno-sanitize-recover=all")


@pytest.mark.slow
@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_no_sanitizer_complains_and_all_numbers_are_those_of_plain_loops(sanitizers, tmp_path):
    program = str(tmp_path / "check")
    sources = [*map(str, pathlib.Path(__file__).parent.glob("check*.cc")), str(SOURCES / "path.cc")]
    options = [*_FLAGS, f"-fsanitize={sanitizers}", "-DTF_DLRM_PATH=portable", f"-I{SOURCES}"]
    subprocess.run(["g++", *options, *sources, "-o", program], check=True)
    done = subprocess.run([program], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "equal\n"), done.stdout + done.stderr


# TensorFlow itself is compiled without sanitizers: its headers compare functions with null in
# constants, and their containers would have other fields where addresses are checked.
_WITH_HEADERS = (
    "-fsanitize=address,undefined",
    "-fno-sanitize=vptr,null,nonnull-attribute,returns-nonnull-attribute",
    "-fno-sanitize-recover=undefined",
    "-U__SANITIZE_ADDRESS__",
)


@pytest.mark.slow
def test_hand_made_graphs_that_lie_touch_no_memory_of_others(tmp_path):
    """All of test_ops.py, the operations under sanitizers in a TensorFlow that is not."""
    environment = os.environ | {
        "CXX": shlex.join(["g++", *_WITH_HEADERS, "-g1"]),
        "TF_DLRM_CACHE": str(tmp_path / "cache"),
        "TF_DLRM_KERNELS": "native",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    build = "from tf_dlrm.kernels.build import library; library()"
    subprocess.run([sys.executable, "-c", build], env=environment, check=True)
    libraries = [
        subprocess.run(
            ["g++", f"-print-file-name=lib{name}.so"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("asan", "ubsan")
    ]
    # TensorFlow keeps much until the process ends.
    sanitized = {"LD_PRELOAD": " ".join(libraries), "ASAN_OPTIONS": "detect_leaks=0"}
    tests = str(pathlib.Path(__file__).with_name("test_ops.py"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-s", tests],
        env=environment | sanitized,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
