"""The cost model: bytes and seconds of a step, every formula once.

Symbols: W devices, each with an equal share B of the batch; n = B * (ids per example) draws from a
table on each device, u of them different; a table part of c columns. Times are not overlapped.
What is counted follows what `placements` do: ids are made unique at home, travel to their owners,
rows travel back, gradients travel as the rows did, and each owner updates a row once. Bags of many
ids whose table has one owner travel there with all of their ids, and only their vectors and the
gradients of these between the two. All pieces of an exchange are as large as the largest of them.
"""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np

from tf_dlrm.embeddings.optimizers import Optimizer
from tf_dlrm.planner.hardware import GB, Hardware

FLOAT_BYTES = 4
# What travels is counted in these, and with each so many vectors: an id that is asked for and its
# row and gradient; an id of a table that each device has a copy of and its gradient; an id of a bag
# that its owner pools; and such a bag, with its number of ids, its vector and its gradient.
ROW, COPY, POOLED_ID, BAG = "row", "copy", "pooled id", "bag"
_VECTORS = {ROW: 2, COPY: 1, POOLED_ID: 0, BAG: 2}

# Formulas that are linear in rows take a number of them, or an array with one for each part.
Numbers = TypeVar("Numbers", float, np.ndarray)


def id_bytes(vocabulary_size: int) -> int:
    """Returns the bytes of an id that travels: 8 where 4 cannot number all rows."""
    return 8 if vocabulary_size >= 2**31 else 4


def table_bytes(rows: Numbers, columns: int, optimizer: Optimizer) -> Numbers:
    """Returns the bytes of float32 weights and optimizer slots of a part.

    rows * (columns + elements of all slots of a row) * 4.
    """
    return rows * (columns + slot_elements(columns, optimizer)) * FLOAT_BYTES


def slot_elements(columns: int, optimizer: Optimizer) -> int:
    """Returns the elements that all slots keep for a row: one each where row-wise."""
    return sum(1 if slot.row_wise else columns for slot in optimizer.slots)


def row_bytes(columns: int, hardware: Hardware) -> float:
    """Returns the bytes that a row at a random place costs, however short it is."""
    return max(columns * FLOAT_BYTES, hardware.min_row_bytes)


def lookup_seconds(rows: Numbers, columns: int, hardware: Hardware, sharers: int) -> Numbers:
    """Returns the time of gathering rows: rows * row bytes / rate of random rows.

    Args:
        rows: Numbers gathered.
        columns: Their width.
        hardware: The hardware.
        sharers: Devices that divide its rates.
    """
    return rows * row_bytes(columns, hardware) * sharers / (hardware.row_read_gbs * GB)


def update_seconds(
    received: Numbers,
    updated: Numbers,
    columns: int,
    optimizer: Optimizer,
    hardware: Hardware,
    sharers: int,
) -> Numbers:
    """Returns the time of one update from gradients that several devices sent.

    Three sums: the received ids are made unique; their gradients are read and added (two passes
    over memory); the weights and each slot of every updated row are read and written.

    Args:
        received: Ids received from all devices, with a gradient each.
        updated: Different ids among them.
        columns: Width of the part.
        optimizer: Its optimizer.
        hardware: The hardware.
        sharers: Devices that divide its rates.
    """
    unique = received / (hardware.unique_mids * 1e6)
    added = 2.0 * received * columns * FLOAT_BYTES / (hardware.memory_gbs * GB)
    touched = row_bytes(columns, hardware)
    for slot in optimizer.slots:
        touched += row_bytes(1 if slot.row_wise else columns, hardware)
    written = updated * touched / (hardware.row_update_gbs * GB)
    return (unique + added + written) * sharers


def pooling_seconds(ids: float, columns: int, hardware: Hardware, sharers: int) -> float:
    """Returns the time in which an owner pools the bags of several devices, and of the way back.

    The rows of all ids pass memory three times: into one list, from there into the sums, and the
    gradient of each id into another list.

    Args:
        ids: Ids of all these bags.
        columns: Width of the part.
        hardware: The hardware.
        sharers: Devices that divide its rates.
    """
    return 3.0 * ids * columns * FLOAT_BYTES * sharers / (hardware.memory_gbs * GB)


def request_seconds(
    draws: float, sorted_ids: float, dim: int, parts: int, hardware: Hardware, sharers: int
) -> float:
    """Returns the time that a device spends on its own ids of a table and on its bags' vectors.

    Ids are made unique for each column part, and sorted by owner unless the table is at home. The
    vectors of all ids pass memory six times: out of the unique rows, into the bag and its sum, and
    the same way back for the gradients.

    Args:
        draws: Ids of the device's part of the batch, n.
        sorted_ids: Different ids that are sent to owners; 0 where the table is data-parallel.
        dim: Width of the table.
        parts: Column parts of the table.
        hardware: The hardware.
        sharers: Devices that divide its rates.
    """
    unique = parts * (draws + sorted_ids) / (hardware.unique_mids * 1e6)
    pooled = 6.0 * draws * dim * FLOAT_BYTES / (hardware.memory_gbs * GB)
    return (unique + pooled) * sharers


def bytes_per_id(columns: int, ids: int, communication_bytes: int, unit: str) -> tuple[int, int]:
    """Returns what travels for an id or a bag, and what of it stays in memory for the step.

    One whole number and the unit's vectors. In memory each is there twice, as sent and as received.

    Args:
        columns: Width of the part.
        ids: Bytes of an id.
        communication_bytes: Bytes of a number that travels.
        unit: One of the units above.
    """
    travels = ids + _VECTORS[unit] * columns * communication_bytes
    return travels, 2 * travels


def exchange_seconds(piece_bytes: float, devices: int, hardware: Hardware) -> float:
    """Returns the time of an all-to-all in which every device sends `piece_bytes` to each other.

    Devices of the own host are reached over one link, those of other hosts over another, at the
    same time: the larger of (L - 1) * piece / intra and (W - L) * piece / inter, with L devices on
    a host. Latency is not in it; see `latency_seconds`.
    """
    on_host = min(devices, hardware.devices_per_host)
    share = hardware.sharers(devices)
    near = (on_host - 1) * piece_bytes * share / (hardware.intra_host_gbs * GB)
    far = (devices - on_host) * piece_bytes * share / (hardware.inter_host_gbs * GB)
    return max(near, far)


def latency_seconds(devices: int, hardware: Hardware) -> float:
    """Returns the time of an empty collective: within a host, plus log2(hosts) between hosts."""
    if devices == 1:
        return 0.0
    hosts = math.ceil(devices / hardware.devices_per_host)
    near = hardware.intra_host_latency_us if hardware.devices_per_host > 1 else 0.0
    return (near + hardware.inter_host_latency_us * math.ceil(math.log2(hosts))) * 1e-6


def all_reduce_seconds(size: float, devices: int, hardware: Hardware) -> float:
    """Returns the time of summing `size` bytes over all devices in a ring.

    2 (W - 1) / W * size / bandwidth of the slowest link, plus latency.
    """
    if devices == 1:
        return 0.0
    crosses = devices > hardware.devices_per_host
    rate = hardware.inter_host_gbs if crosses else hardware.intra_host_gbs
    share = hardware.sharers(devices)
    moved = 2.0 * (devices - 1) / devices * size * share / (rate * GB)
    return moved + latency_seconds(devices, hardware)


def dense_seconds(
    multiplications: float, parameters: float, batch: float, hardware: Hardware, sharers: int
) -> float:
    """Returns the time of forward, backward and update of the dense part on one device.

    3 * 2 * batch * multiplications / GEMM rate, and three passes over the parameters.

    Args:
        multiplications: Of one example in the forward pass.
        parameters: Number of weights.
        batch: Examples on the device.
        hardware: The hardware.
        sharers: Devices that divide its rates.
    """
    products = 6.0 * batch * multiplications / (hardware.gemm_gflops * 1e9)
    update = 3.0 * parameters * FLOAT_BYTES / (hardware.memory_gbs * GB)
    return (products + update) * sharers


def activation_bytes(
    draws_times_dim: float, pooled: float, units: float, parameters: float, batch: float
) -> float:
    """Returns the bytes of a device that are no tables and no exchange buffers.

    Rows of all ids, pooled vectors and layer outputs, each with its gradient; and four copies of
    the dense parameters: weights, gradients and two slots.

    Args:
        draws_times_dim: Sum over the tables of ids on the device times dim.
        pooled: Elements of the pooled vectors of an example.
        units: Outputs of all layers of an example.
        parameters: Number of dense weights.
        batch: Examples on the device.
    """
    passing = draws_times_dim + batch * (pooled + units)
    return FLOAT_BYTES * (2.0 * passing + 4.0 * parameters)
