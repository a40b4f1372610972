"""A plan and its cost as text for people."""

from __future__ import annotations

import numpy as np

from tf_dlrm.embeddings.plan import Plan
from tf_dlrm.planner.hardware import GB
from tf_dlrm.planner.model import CostModel, Estimate
from tf_dlrm.planner.reasons import duration

# More devices than these are summarised by the lightest, the middle and the heaviest one.
_MOST_DEVICES = 16
_MOST_RUNS = 8


def bottleneck(estimate: Estimate) -> str:
    """Returns the largest part of the step, in a sentence."""
    slowest = int(estimate.tables.argmax())
    rows = "looking up" if estimate.lookup[slowest] >= estimate.update[slowest] else "updating"
    parts = {
        f"device {slowest}, {rows} rows": float(estimate.tables.max()),
        "communication: the exchange of ids, vectors and gradients": estimate.exchange,
        "communication: the all-reduce of the MLPs' gradients": estimate.all_reduce,
        "each device's own ids and pooling": estimate.request,
        "the dense part (MLPs and interaction)": estimate.dense,
        "the overhead of a step": estimate.overhead,
    }
    name = max(parts, key=lambda part: parts[part])
    share = parts[name] / estimate.step if estimate.step else 0.0
    return f"The bottleneck is {name}: {duration(parts[name])}, {share:.0%} of the step."


def report(model: CostModel, plan: Plan) -> str:
    """Returns tables of the devices, of the plan and of the step, and the bottleneck.

    Args:
        model: The cost model.
        plan: A plan for it.
    """
    estimate = model.estimate(plan)
    sections = [
        f"Plan for {plan.devices} device(s) of '{model.hardware.name}', "
        f"{model.workload.batch_size:,} examples a step. All times are predicted.",
        "\n".join(_device_lines(model, estimate)),
        "\n".join(_table_lines(plan)),
        "\n".join(_step_lines(model, estimate)),
        bottleneck(estimate),
    ]
    return "\n\n".join(sections) + "\n"


def _device_lines(model: CostModel, estimate: Estimate) -> list[str]:
    lines = ["device   tables GB   in all GB     lookup     update   ids asked"]
    order = np.arange(model.devices)
    if model.devices > _MOST_DEVICES:
        heavy = np.argsort(estimate.tables, kind="stable")
        order = heavy[[0, len(heavy) // 2, -1]]
        lines.insert(0, "The lightest, the middle and the heaviest device:")
    for device in order:
        tables = estimate.table_bytes[device]
        lines.append(
            f"{device:>6} {tables / GB:>11,.3f} {(tables + estimate.other_bytes) / GB:>11,.3f} "
            f"{duration(estimate.lookup[device]):>10} {duration(estimate.update[device]):>10} "
            f"{estimate.ids[device]:>11,.0f}"
        )
    lines.append(
        f"Of {estimate.memory_limit / GB:,.2f} GB a device; "
        f"the slowest device takes {estimate.imbalance:.2f} times the mean."
    )
    return lines


def _table_lines(plan: Plan) -> list[str]:
    width = max(map(len, plan.tables))
    lines = []
    for name, table in plan.tables.items():
        where = _ranges(table.devices) if table.devices else "all"
        lines.append(f"{name:<{width}}  {table.sharding:<13} {where:<8} {table.reason}".rstrip())
    return lines


def _ranges(devices: tuple[int, ...]) -> str:
    """Returns numbers with runs of them joined, 0-3,6; of many runs only how many numbers."""
    runs: list[list[int]] = []
    for device in devices:
        if runs and device == runs[-1][-1] + 1:
            runs[-1].append(device)
        else:
            runs.append([device])
    if len(runs) > _MOST_RUNS:
        return f"{len(devices)} of them"
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _step_lines(model: CostModel, estimate: Estimate) -> list[str]:
    parts = {
        "own ids and pooling": estimate.request,
        "lookups and updates, slowest device": float(estimate.tables.max()),
        f"exchange of {estimate.exchange_bytes / 1e6:,.1f} MB a device": estimate.exchange,
        "MLPs and interaction": estimate.dense,
        "all-reduce of the MLPs' gradients": estimate.all_reduce,
        "overhead": estimate.overhead,
        "step": estimate.step,
    }
    width = max(map(len, parts))
    lines = [f"{name:<{width}}  {duration(value):>9}" for name, value in parts.items()]
    if estimate.step:
        lines.append(f"{model.workload.batch_size / estimate.step:,.0f} examples a second")
    return lines
