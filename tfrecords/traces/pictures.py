"""Pictures of miss-ratio curves."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from tfrecords.traces.miss_ratio import MissRatioCurve, log_sizes

COLOURS = ("#1f5fa8", "#d1741f")
_INK = "#444444"


def new_figure(width: float, height: float) -> Figure:
    """A figure of its own, drawn without a display; width and height in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plain(axes: Axes) -> None:
    """Takes away the ink that says nothing."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_INK)
    axes.tick_params(colors=_INK, labelsize=8)
    axes.grid(True, color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_fontsize(8)
        label.set_color(_INK)
    axes.title.set_fontsize(9)


def to_png(figure: Figure, dpi: int = 110) -> bytes:
    """The figure as a PNG file; equal figures give equal bytes."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi, metadata={"Software": None})
    return content.getvalue()


def short_number(value: float, _position: int | None = None) -> str:
    """A number for an axis: 1, 10, 1k, 10k, 1M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def draw_curve(axes: Axes, curve: MissRatioCurve, **style: Any) -> None:
    """Adds a miss-ratio curve, on a logarithmic scale of cache sizes."""
    sizes = log_sizes(int(curve.sizes[-1]))
    axes.plot(sizes, curve.at(sizes), drawstyle="steps-post", **style)
    axes.set_xscale("log")
    # Without labels between the powers of ten, which lie upon each other in a small panel.
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(short_number))
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("cache size (ids)")
    axes.set_ylabel("miss ratio (LRU)")


def draw_comparisons(
    curves: Mapping[str, Sequence[MissRatioCurve]], labels: Sequence[str]
) -> bytes:
    """One panel per column, in each the curves of the two traces.

    Args:
        curves: Title of the panel to its curves.
        labels: What each of the curves of a panel is.

    Returns:
        A PNG file.
    """
    across = min(4, len(curves))
    down = -(-len(curves) // across)
    alone = len(curves) == 1
    figure = new_figure(6.4 if alone else 3.0 * across, 4.4 if alone else 2.3 * down + 0.3)
    for number, (title, pair) in enumerate(curves.items()):
        axes = figure.add_subplot(down, across, number + 1)
        for curve, label, colour, line in zip(pair, labels, COLOURS, ("-", "--"), strict=True):
            draw_curve(axes, curve, label=label, color=colour, linestyle=line, linewidth=1.6)
        axes.set_title(title)
        plain(axes)
        if number % across:
            axes.set_ylabel("")
        if number < len(curves) - across:
            axes.set_xlabel("")
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside upper center", ncols=len(labels), frameon=False, fontsize=9
    )
    return to_png(figure)


def bars(axes: Axes, edges: np.ndarray, counts: np.ndarray, **style: Any) -> None:
    """Adds a histogram whose bars are known already."""
    axes.stairs(counts, edges, fill=True, **style)
