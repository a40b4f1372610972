"""The kernels in their libraries, for every instruction set of this processor."""

import os
import pathlib
import subprocess

import tensorflow as tf

from tf_dlrm.embeddings.kernels.build import library
from tf_dlrm.embeddings.kernels.native import _FOLDER as FOLDER
from tf_dlrm.layers.kernels import pairs


def test_every_instruction_set_computes_what_plain_loops_do(tmp_path):
    program = str(tmp_path / "check")
    # What the library needs of TensorFlow is found when the program runs.
    options = ["-O1", "-std=c++17", "-pthread", f"-I{FOLDER}"]
    options.append("-Wl,--unresolved-symbols=ignore-in-shared-libs")
    source = str(pathlib.Path(__file__).parent / "check_kernels.cc")
    subprocess.run(["g++", *options, source, library(FOLDER), "-o", program], check=True)
    environment = os.environ | {"LD_LIBRARY_PATH": tf.sysconfig.get_lib()}
    done = subprocess.run([program], env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "equal\n"), done.stdout + done.stderr


def test_of_what_is_ours_only_the_paths_can_be_seen_from_outside():
    """Else one library could call what another one, or an older one, has by the same name."""
    seen = []
    for folder in (FOLDER, pairs.FOLDER):
        command = ["nm", "--dynamic", "--demangle", "--defined-only", library(folder)]
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        seen += [line.split()[-1] for line in lines.splitlines() if "tf_dlrm" in line]
    spaces = ("layers", "tables")
    names = [f"tf_dlrm::{s}::{n}::kPath" for s in spaces for n in ("avx2", "avx512", "portable")]
    assert sorted(seen) == names
