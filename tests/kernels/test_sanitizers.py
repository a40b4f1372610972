"""The kernels under the address, undefined-behaviour and thread sanitizers."""

import pathlib
import subprocess

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
