"""The pictures of the report of `inspect`, each a PNG."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter, PercentFormatter

from tfrecords.report.statistics import CategoricalSummary, DenseSummary, LabelRate
from tfrecords.traces.pictures import (
    COLOURS,
    bars,
    draw_curve,
    new_figure,
    plain,
    short_number,
    to_png,
)

_POINTS = 400
_BARS = 50


def label_rate(rate: LabelRate) -> bytes:
    """The label rate over the position in the split, with its confidence band."""
    figure = new_figure(10.5, 2.5)
    axes = figure.add_subplot()
    ends = np.cumsum(rate.rows)
    edges = np.concatenate([[0], ends])
    low, high = rate.band()
    # The last piece is repeated, since a step goes from its beginning to the next one's.
    axes.fill_between(
        edges,
        np.append(low, low[-1]),
        np.append(high, high[-1]),
        step="post",
        color=COLOURS[0],
        alpha=0.2,
        linewidth=0,
        label="95% confidence",
    )
    axes.stairs(rate.rates, edges, baseline=None, color=COLOURS[0], linewidth=1.4, label="rate")
    mean = rate.label_sums.sum() / rate.rows.sum()
    axes.axhline(mean, color=COLOURS[1], linestyle="--", linewidth=1, label=f"mean {mean:.4f}")
    axes.set_xlim(0, ends[-1])
    axes.set_xlabel("row of the split")
    axes.set_ylabel("label rate")
    axes.xaxis.set_major_formatter(FuncFormatter(short_number))
    plain(axes)
    axes.legend(loc="upper right", ncols=3, fontsize=8, frameon=False)
    spread = max(float(high.max() - low.min()), 1e-6)
    axes.set_ylim(max(low.min() - 0.1 * spread, 0), high.max() + 0.3 * spread)
    return to_png(figure)


def categorical(summary: CategoricalSummary) -> bytes:
    """How frequent the ids of a column are, and which caches they need."""
    figure = new_figure(5.6, 2.1)
    left, right = figure.subplots(1, 2)
    _frequencies(left, summary.counts)
    if summary.curve is not None:
        draw_curve(right, summary.curve, color=COLOURS[1], linewidth=1.6)
        right.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        right.set_xlim(1, max(2, int(summary.curve.sizes[-1])))
    for axes in (left, right):
        plain(axes)
    return to_png(figure)


def _frequencies(axes: Axes, counts: np.ndarray) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    if len(counts):
        ranks = np.unique(np.geomspace(1, len(counts), _POINTS).astype(np.int64))
        marker = "o" if len(counts) < 20 else None
        axes.plot(
            ranks, counts[ranks - 1], color=COLOURS[0], linewidth=1.6, marker=marker, markersize=3
        )
        axes.set_ylim(bottom=0.8)
        axes.set_xlim(0.9, max(len(counts) * 1.1, 10))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(short_number))
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("rank of the id")
    axes.set_ylabel("times in the split")


def dense(summary: DenseSummary) -> bytes:
    """The histogram of a dense column, without the outermost values."""
    figure = new_figure(2.75, 1.7)
    axes = figure.add_subplot()
    low, high = np.quantile(summary.sample, [0.001, 0.999])
    if low == high:
        low, high = low - 0.5, high + 0.5
    inside = summary.sample[(summary.sample >= low) & (summary.sample <= high)]
    counts, edges = np.histogram(inside, _BARS, (low, high))
    bars(axes, edges, counts / len(summary.sample), color=COLOURS[0])
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    axes.set_ylabel("rows")
    plain(axes)
    return to_png(figure)
