"""What to do when the tables do not fit: by how many GB, and what each way out would save."""

from __future__ import annotations

import math

from tf_dlrm.embeddings.optimizers import Adagrad, Optimizer, RowWiseAdagrad
from tf_dlrm.embeddings.plan import Plan
from tf_dlrm.planner import cost
from tf_dlrm.planner.hardware import GB
from tf_dlrm.planner.model import CostModel


class DoesNotFitError(ValueError):
    """The tables need more memory than the devices have; the message says the ways out.

    Attributes:
        excess_gb: By how many GB the fullest device is over its memory in the best plan found.
    """

    def __init__(self, message: str, excess_gb: float) -> None:
        super().__init__(message)
        self.excess_gb = excess_gb


def check_fit(model: CostModel, plan: Plan, pinned: bool = False) -> None:
    """Checks that no device of the best plan found is over its memory.

    Args:
        model: The cost model.
        plan: The plan.
        pinned: Whether some tables were not free.

    Raises:
        DoesNotFitError: If one is.
    """
    estimate = model.estimate(plan)
    excess = estimate.excess_bytes
    if not excess:
        return
    fullest = int(estimate.table_bytes.argmax())
    lines = [
        f"The tables do not fit: device {fullest} of {model.devices} needs "
        f"{(estimate.table_bytes[fullest] + estimate.other_bytes) / GB:,.2f} GB, "
        f"{excess / GB:,.2f} GB more than its {estimate.memory_limit / GB:,.2f} GB "
        f"({estimate.other_bytes / GB:,.2f} GB of them for the exchange, activations and MLPs).",
        *(f"- {way}" for way in _ways_out(model, plan, pinned)),
    ]
    raise DoesNotFitError("\n".join(lines), excess / GB)


def _size(model: CostModel, optimizer: Optimizer | None = None, halved: bool = False) -> float:
    """Returns the GB of one copy of all tables, with another optimizer or half the columns."""
    total = 0.0
    for table in model.tables.values():
        columns = max(1, table.dim // 2) if halved else table.dim
        used = table.optimizer
        if optimizer is not None and type(used) is Adagrad:
            used = optimizer
        total += cost.table_bytes(float(table.vocabulary_size), columns, used)
    return total / GB


def _ways_out(model: CostModel, plan: Plan, pinned: bool) -> list[str]:
    estimate = model.estimate(plan)
    total = _size(model)
    ways = []
    room = (estimate.memory_limit - estimate.other_bytes) / GB
    if model.hardware.shared:
        ways.append(
            f"More memory or more hosts: the tables take {total:,.2f} GB once, and the "
            f"{model.hardware.sharers(model.devices)} device(s) of a host share "
            f"{model.hardware.host_memory_gb:,.2f} GB."
        )
    elif room > 0:
        ways.append(
            f"More devices: the tables take {total:,.2f} GB once, so at least "
            f"{max(model.devices + 1, math.ceil(total / room)):,} devices of this memory."
        )
    else:
        ways.append("A smaller batch: the exchange and the activations alone fill a device.")
    if pinned:
        ways.append("Fewer pins: pinned tables stay where they are, fit or not.")
    if any(type(table.optimizer) is Adagrad for table in model.tables.values()):
        saved = total - _size(model, RowWiseAdagrad(0.01))
        ways.append(
            f"Row-wise Adagrad (--embedding_optimizer=rowwise_adagrad) in place of Adagrad saves "
            f"{saved:,.2f} GB."
        )
    if any(table.dim > 1 for table in model.tables.values()):
        saved = total - _size(model, halved=True)
        ways.append(f"Half the --embedding_dim saves {saved:,.2f} GB.")
    largest = max(model.tables.values(), key=lambda table: table.vocabulary_size)
    half = largest.vocabulary_size // 2
    if half:
        saved = 0.0
        for table in model.tables.values():
            rows = max(0, table.vocabulary_size - half)
            saved += cost.table_bytes(float(rows), table.dim, table.optimizer)
        ways.append(
            f"Ids hashed to at most {half:,} rows a table (--max_index_range={half} when the data "
            f"are converted) save {saved / GB:,.2f} GB."
        )
    return ways
