"""The kernels of layers in the library, for every instruction set of this processor."""

import os
import pathlib
import subprocess

import tensorflow as tf

from tf_dlrm.embeddings.kernels.build import library
from tf_dlrm.layers.kernels.pairs import FOLDER


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
