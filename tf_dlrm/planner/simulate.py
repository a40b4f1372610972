"""How a model scales: the predicted step of the best plan for each of several device counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from tf_dlrm.embeddings.config import FeatureConfig
from tf_dlrm.planner.fit import DoesNotFitError, check_fit
from tf_dlrm.planner.hardware import GB, Hardware
from tf_dlrm.planner.model import CostModel, Estimate
from tf_dlrm.planner.pins import Pin, check_pins
from tf_dlrm.planner.reasons import duration
from tf_dlrm.planner.report import bottleneck
from tf_dlrm.planner.search import Search
from tf_dlrm.planner.workload import Dense, Workload


@dataclasses.dataclass(frozen=True)
class Scale:
    """The prediction for one number of devices.

    Attributes:
        devices: Their number.
        batch_size: Examples of a step on all of them.
        estimate: What the best plan costs; None where nothing fits.
        missing_gb: By how many GB the fullest device is over its memory; 0 where the plan fits.
    """

    devices: int
    batch_size: int
    estimate: Estimate | None
    missing_gb: float = 0.0

    @property
    def examples_per_second(self) -> float:
        """Examples that all devices train on in a second; 0 where nothing fits."""
        return self.batch_size / self.estimate.step if self.estimate else 0.0


def simulate(
    features: Sequence[FeatureConfig],
    workload: Workload,
    hardware: Hardware,
    devices: Sequence[int],
    dense: Dense | None = None,
    pins: Mapping[str, Pin] | None = None,
    batch_per_device: bool = False,
) -> list[Scale]:
    """Plans for each number of devices and predicts the step.

    Args:
        features: The features and their tables.
        workload: What is looked up.
        hardware: The hardware.
        devices: Numbers of devices.
        dense: The MLPs.
        pins: Tables that are placed already.
        batch_per_device: Whether the workload's batch is that of one device (weak scaling), not
            that of all devices together (strong scaling).

    Raises:
        ValueError: If an argument cannot be.
    """
    scales = []
    for count in devices:
        size = workload.batch_size * count if batch_per_device else workload.batch_size
        model = CostModel(
            features, dataclasses.replace(workload, batch_size=size), hardware, count, dense
        )
        check_pins(pins or {}, model.tables, count)
        plan = Search(model, pins).best()
        try:
            check_fit(model, plan)
        except DoesNotFitError as error:
            scales.append(Scale(count, size, None, error.excess_gb))
        else:
            scales.append(Scale(count, size, model.estimate(plan)))
    return scales


def scaling_table(scales: Sequence[Scale]) -> str:
    """Returns a Markdown table of the predictions, and the bottleneck of each."""
    lines = [
        "| devices | examples/step | step | examples/s | lookups and updates | exchange | "
        "all-reduce | MLPs | sent by a device | slowest / mean | tables, fullest device |",
        "|" + "---:|" * 11,
    ]
    notes = []
    for scale in scales:
        estimate = scale.estimate
        head = f"| {scale.devices:,} | {scale.batch_size:,} |"
        if estimate is None:
            missing = f" does not fit: {scale.missing_gb:,.1f} GB a device are missing |"
            lines.append(head + missing + " - |" * 8)
            continue
        cells = (
            duration(estimate.step),
            f"{scale.examples_per_second:,.0f}",
            duration(float(estimate.tables.max())),
            duration(estimate.exchange),
            duration(estimate.all_reduce),
            duration(estimate.dense),
            f"{estimate.exchange_bytes / 1e6:,.1f} MB",
            f"{estimate.imbalance:.2f}",
            f"{float(estimate.table_bytes.max()) / GB:,.2f} GB",
        )
        lines.append(f"{head} {' | '.join(cells)} |")
        notes.append(f"{scale.devices:,} devices: {bottleneck(estimate)}")
    return "\n".join([*lines, "", *notes]) + "\n"
