"""Measures this machine with TensorFlow, for plans that fit it."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable

import tensorflow as tf

from tf_dlrm.planner.hardware import GB, Hardware, this_machine

# Large enough that rows come from memory and not from a cache, small enough for a laptop.
_TABLE_BYTES = 512 << 20
_ROWS = 65_536
_COLUMNS = 128
_FEW_COLUMNS = 4
_REPEATS = 7
# Sizes of one device's layer in training.
_GEMM = (2048, 512, 512)
_COPY_BYTES = 64 << 20


def calibrate(devices_per_host: int | None = None) -> Hardware:
    """Measures rates of this machine's CPU; takes a few seconds and some hundred MB.

    Those of other machines, and the latency of collectives, stay those of the preset `cpu`.

    Args:
        devices_per_host: Devices that will share the machine; by default as in the preset.

    Returns:
        The description, named "calibrated".
    """
    preset = this_machine()
    seconds = {
        columns: (_gather_seconds(columns), _scatter_seconds(columns))
        for columns in (_COLUMNS, _FEW_COLUMNS)
    }
    read, update = seconds[_COLUMNS]
    size = _ROWS * _COLUMNS * 4
    row_bytes = _COLUMNS * 4
    # A short row costs as much as so many bytes of a long one.
    least = seconds[_FEW_COLUMNS][0] / read * row_bytes
    copy = _copy_gbs()
    return dataclasses.replace(
        preset,
        name="calibrated",
        devices_per_host=devices_per_host or preset.devices_per_host,
        gemm_gflops=round(_gemm_gflops(), 1),
        # A copy reads and writes each byte.
        memory_gbs=round(2.0 * copy, 2),
        row_read_gbs=round(size / read / GB, 3),
        row_update_gbs=round(size / update / GB, 3),
        min_row_bytes=max(_FEW_COLUMNS * 4, min(row_bytes, round(least))),
        unique_mids=round(_unique_mids(), 2),
        intra_host_gbs=round(copy, 2),
        step_overhead_us=round(_overhead_us(), 1),
        memory_gb=round(preset.memory_gb, 2),
        host_memory_gb=round(preset.host_memory_gb, 2),
    )


def describe(hardware: Hardware) -> str:
    """Returns what to say above a calibrated description."""
    return (
        f"Measured with TensorFlow {tf.__version__} on {os.cpu_count()} CPUs by "
        "`python -m tf_dlrm.plan --calibrate`.\n"
        "Not measured: everything between hosts, and the latency of collectives.\n"
        f"intra_host_gbs is a copy in memory, {hardware.intra_host_gbs} GB/s."
    )


def _median_seconds(run: Callable[[], object]) -> float:
    """Returns the median time of a call; the first one, which may compile, does not count."""
    run()
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return sorted(times)[_REPEATS // 2]


def _random_rows(columns: int) -> tuple[tf.Variable, tf.Tensor]:
    rows = _TABLE_BYTES // (columns * 4)
    with tf.device("/cpu:0"):
        table = tf.Variable(tf.zeros([rows, columns]), trainable=False)
        ids = tf.random.stateless_uniform([_ROWS], (1, 2), 0, rows, tf.int32)
    return table, ids


def _gather_seconds(columns: int) -> float:
    table, ids = _random_rows(columns)
    return _median_seconds(lambda: tf.gather(table, ids).numpy())


def _scatter_seconds(columns: int) -> float:
    table, ids = _random_rows(columns)
    unique, _ = tf.unique(ids)
    slices = tf.IndexedSlices(tf.ones([tf.size(unique), columns]), unique)
    return _median_seconds(lambda: table.scatter_sub(slices)) * _ROWS / int(tf.size(unique))


def _gemm_gflops() -> float:
    rows, inner, columns = _GEMM
    left, right = tf.ones([rows, inner]), tf.ones([inner, columns])
    seconds = _median_seconds(lambda: tf.matmul(left, right).numpy())
    return 2.0 * rows * inner * columns / seconds / 1e9


def _copy_gbs() -> float:
    values = tf.ones([_COPY_BYTES // 4])
    return _COPY_BYTES / _median_seconds(lambda: tf.identity(values + 0.0).numpy()[0]) / GB


def _unique_mids() -> float:
    ids = tf.random.stateless_uniform([_ROWS], (3, 4), 0, 1 << 22, tf.int32)
    return _ROWS / _median_seconds(lambda: tf.unique(ids)[0].numpy()) / 1e6


def _overhead_us() -> float:
    """Returns the time of a compiled step of a hundred operations on next to no data."""
    counter = tf.Variable(0.0, trainable=False)

    @tf.function
    def step() -> tf.Tensor:
        value = counter.assign_add(1.0)
        for _ in range(100):
            value = tf.sin(value)
        return value

    return _median_seconds(lambda: step().numpy()) * 1e6
