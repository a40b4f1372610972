"""The kernels in the library, for every instruction set of this processor."""

import os
import pathlib
import subprocess

import tensorflow as tf

from tf_dlrm.kernels.build import SOURCES, library


def test_every_instruction_set_computes_what_plain_loops_do(tmp_path):
    program = str(tmp_path / "check")
    # What the library needs of TensorFlow is found when the program runs.
    options = ["-O1", "-std=c++17", "-pthread", f"-I{SOURCES}"]
    options.append("-Wl,--unresolved-symbols=ignore-in-shared-libs")
    sources = map(str, pathlib.Path(__file__).parent.glob("check*.cc"))
    subprocess.run(["g++", *options, *sources, library(), "-o", program], check=True)
    environment = os.environ | {"LD_LIBRARY_PATH": tf.sysconfig.get_lib()}
    done = subprocess.run([program], env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "equal\n"), done.stdout + done.stderr


def test_of_what_is_ours_only_the_paths_can_be_seen_from_outside():
    """Else one library could call what another one, or an older one, has by the same name."""
    command = ["nm", "--dynamic", "--demangle", "--defined-only", library()]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    seen = [line.split()[-1] for line in lines if "tf_dlrm" in line]
    assert sorted(seen) == [f"tf_dlrm::{n}::kPath" for n in ("avx2", "avx512", "portable")]
