"""Training and validation curves as a picture, as in Figure 5 of the DLRM paper."""

from __future__ import annotations

import collections
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import TENSORS, EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from tf_dlrm.comparing.results import read_evaluations
from tf_dlrm.comparing.runs import Run

_LOSS = "train/loss"
# Points of a training curve; each is a mean over the steps before it.
_POINTS = 60

Curve = dict[int, float]


def training_loss(folder: pathlib.Path) -> Curve:
    """Returns the loss by step of a run's TensorBoard logs; of a step made twice, the later."""
    logs = EventAccumulator(str(folder / "tensorboard"), size_guidance={TENSORS: 0}).Reload()
    if _LOSS not in logs.Tags()[TENSORS]:
        return {}
    events = sorted(logs.Tensors(_LOSS), key=lambda event: event.wall_time)
    losses = {event.step: float(make_ndarray(event.tensor_proto)) for event in events}
    return dict(sorted(losses.items()))


def evaluations(folder: pathlib.Path, metric: str) -> Curve:
    """Returns a metric by step of a run's evaluations.

    Raises:
        UserError: If they can't be read.
    """
    entries = read_evaluations(folder)
    return {entry["step"]: entry[metric] for entry in entries if entry[metric] is not None}


def smoothed(curve: Curve, steps: int) -> Curve:
    """Returns means over equal stretches of steps; the loss between two points is one mean."""
    edges = np.linspace(0, steps, _POINTS + 1)
    sums: dict[int, list[float]] = collections.defaultdict(lambda: [0.0, 0.0])
    before = 0
    for step, value in curve.items():
        place = int(np.clip(np.searchsorted(edges, step), 1, _POINTS))
        sums[place][0] += value * (step - before)
        sums[place][1] += step - before
        before = step
    return {int(edges[k]): total / count for k, (total, count) in sorted(sums.items()) if count}


def draw_curves(runs: Sequence[Run], path: pathlib.Path) -> None:
    """Writes an SVG: for each optimizer training loss, validation accuracy and AUC by step.

    A line is the mean over the seeds, a band reaches from the least to the most.
    """
    optimizers = list(dict.fromkeys(run.optimizer for run in runs))
    models = list(dict.fromkeys(run.model for run in runs))
    figure = Figure(figsize=(12, 3.2 * len(optimizers)), layout="constrained")
    FigureCanvasSVG(figure)
    grid = figure.subplots(len(optimizers), 3, squeeze=False)
    for row, optimizer in zip(grid, optimizers, strict=True):
        for number, model in enumerate(models):
            own = [r.folder for r in runs if (r.model, r.optimizer) == (model, optimizer)]
            losses = [training_loss(folder) for folder in own]
            last = max((step for curve in losses for step in curve), default=0)
            kinds = [
                [smoothed(curve, last) for curve in losses],
                [evaluations(folder, "accuracy") for folder in own],
                [evaluations(folder, "auc") for folder in own],
            ]
            for axes, curves in zip(row, kinds, strict=True):
                steps = sorted(set.intersection(*(set(curve) for curve in curves)))
                values = np.array([[curve[step] for step in steps] for curve in curves])
                style = {"color": f"C{number}", "marker": "." if len(steps) < 20 else ""}
                axes.plot(steps, values.mean(0), label=model, **style)
                axes.fill_between(
                    steps, values.min(0), values.max(0), color=f"C{number}", alpha=0.2, linewidth=0
                )
        for axes, what in zip(row, ("training loss", "validation accuracy", "AUC"), strict=True):
            axes.set(xlabel="step", ylabel=what, title=optimizer)
            axes.grid(True, alpha=0.3)
        row[0].set_yscale("log")  # its first points are far above all others
        row[0].legend(frameon=False)
    part = path.with_suffix(".part")
    figure.savefig(part, format="svg")
    os.replace(part, path)
