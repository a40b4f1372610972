"""The results of all runs as a table."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

METRICS = {"auc": "AUC", "log_loss": "log loss", "accuracy": "accuracy"}
# Of parameters, beyond which models are not of one size.
_TOLERANCE = 0.01

# The results of all seeds by (model, optimizer).
Results = Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Returns mean, standard deviation, and standard error of the mean; 0 for one value."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return statistics.fmean(values), deviation, deviation / len(values) ** 0.5


def comparison_table(results: Results) -> str:
    """Returns Markdown: a line for each model and optimizer, and what may be read from it."""
    lines = [
        "| model | optimizer | AUC | log loss | accuracy | parameters | examples/s |",
        "|---|---|---|---|---|---|---|",
    ]
    for (model, optimizer), runs in results.items():
        cells = [_cell([run[metric] for run in runs]) for metric in METRICS]
        rate = statistics.median(run["examples_per_second"] for run in runs)
        cells += [f"{runs[0]['parameters']:,}", f"{rate:,.0f}"]
        lines.append(f"| {model} | {optimizer} | {' | '.join(cells)} |")
    seeds = len(next(iter(results.values())))
    lines += [
        "",
        f"Mean of {seeds} seed{'s' * (seeds > 1)} (standard deviation; standard error of the "
        "mean), examples/s the median.",
        "The standard error is that of the seeds on these evaluation rows; it says nothing of "
        "other rows, of which few separate models less well.",
    ]
    counts = {model: runs[0]["parameters"] for (model, _), runs in results.items()}
    least, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    if counts[most] > (1 + _TOLERANCE) * counts[least]:
        lines.append(
            f"The models are not of one size: {most} has {counts[most]:,} parameters, {least} "
            f"{counts[least]:,}."
        )
    return "\n".join([*lines, "", *_differences(results)]) + "\n"


def _cell(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return "undefined"
    mean, deviation, error = spread(known)
    return f"{mean:.4f} ({deviation:.4f}; {error:.4f})" if len(known) > 1 else f"{mean:.4f}"


def _differences(results: Results) -> list[str]:
    """Returns lines on the AUC of each model less the first one's, seed by seed."""
    lines = []
    for optimizer, group in itertools.groupby(sorted(results, key=_optimizer), _optimizer):
        first, *others = sorted(group, key=list(results).index)
        base = [run["auc"] for run in results[first]]
        for other in others:
            own = [run["auc"] for run in results[other]]
            if None in own or None in base:
                continue
            mean, _, error = spread([a - b for a, b in zip(own, base, strict=True)])
            lines.append(
                f"- {optimizer}: the AUC of {other[0]} less that of {first[0]}, seed by seed: "
                f"{mean:+.4f}" + (f", standard error {error:.4f}." if len(own) > 1 else ".")
            )
    return lines


def _optimizer(key: tuple[str, str]) -> str:
    return key[1]
