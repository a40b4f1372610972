"""How fast a step could be here: products at their best rate, rows at that of memory.

The floor is the sum of three times: the floating-point operations of the dense part at the best
rate that TensorFlow's product of two large matrices reaches; reading each different row of the
batch once; and in training reading and writing each, with its slots.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from step_cases import Case

_HERE = Path(__file__).parent
_SIZE = 4096


def product_rate() -> float:
    """Returns floating-point operations a second of a large product of float32 matrices."""
    code = f"""
import os, time
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import tensorflow as tf
a, b = tf.random.normal(({_SIZE}, {_SIZE})), tf.random.normal(({_SIZE}, {_SIZE}))
times = []
for _ in range(25):
    start = time.perf_counter()
    tf.matmul(a, b).numpy()
    times.append(time.perf_counter() - start)
print(min(times))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return 2 * _SIZE**3 / float(done.stdout)


def milliseconds(case: Case, rate: float) -> float:
    """Returns the floor of a step of a case.

    Args:
        case: The case.
        rate: What `product_rate` returned.
    """
    _, values, _, _ = case.random_batch(0)
    different = sum(len(np.unique(ids)) for ids in values)
    with tempfile.TemporaryDirectory() as folder:
        program = f"{folder}/peaks"
        source = str(_HERE / "step_peaks.cc")
        flags = ["-O3", "-march=native", "-std=c++17", "-pthread"]
        subprocess.run(["g++", *flags, source, "-o", program], check=True)
        numbers = [sum(case.table_rows), case.dim, different, os.cpu_count()]
        done = subprocess.run(
            [program, *map(str, numbers)], check=True, capture_output=True, text=True
        )
    read, write = map(float, done.stdout.split())
    slots = {"sgd": 0.0, "adagrad": 1.0, "rowwise_adagrad": 1 / case.dim}[case.optimizer]
    update = 0.0 if case.inference else write * (1 + slots)
    return 1000 * case.products() / rate + read + update
