"""The scaling curve as a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from tf_dlrm.planner.simulate import Scale
from tfrecords import files


def draw_scaling(scales: Sequence[Scale], title: str, path: str) -> None:
    """Writes a PNG: throughput against devices, and what the step is made of.

    Args:
        scales: The predictions; those where nothing fits are left out.
        title: Above the picture.
        path: The file.

    Raises:
        ValueError: If nothing fits on any number of devices.
        OSError: If the file cannot be written.
    """
    fitting = [(scale, scale.estimate) for scale in scales if scale.estimate is not None]
    if not fitting:
        raise ValueError(
            "There is no scaling curve to draw: the tables fit on no number of devices."
        )
    devices = [scale.devices for scale, _ in fitting]
    rates = [scale.examples_per_second for scale, _ in fitting]
    figure = Figure(figsize=(10, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11)
    left, right = figure.subplots(1, 2)
    left.loglog(devices, rates, "o-", label="predicted")
    left.loglog(
        devices, [rates[0] * n / devices[0] for n in devices], "--", color="grey", label="linear"
    )
    left.set(xlabel="devices", ylabel="examples a second")
    left.legend(frameon=False)
    for axis in (left.xaxis, left.yaxis):
        axis.set_minor_formatter(NullFormatter())
    left.set_xticks(devices, [f"{n:,}" for n in devices])
    left.grid(True, alpha=0.3)
    parts = {
        "lookups and updates": [float(estimate.tables.max()) for _, estimate in fitting],
        "exchange": [estimate.exchange for _, estimate in fitting],
        "own ids and pooling": [estimate.request for _, estimate in fitting],
        "MLPs and interaction": [estimate.dense for _, estimate in fitting],
        "all-reduce": [estimate.all_reduce for _, estimate in fitting],
        "overhead": [estimate.overhead for _, estimate in fitting],
    }
    bottom = [0.0] * len(fitting)
    for name, seconds in parts.items():
        right.bar(range(len(fitting)), seconds, bottom=bottom, width=0.6, label=name)
        bottom = [low + more for low, more in zip(bottom, seconds, strict=True)]
    right.set_xticks(range(len(fitting)), [f"{n:,}" for n in devices])
    right.set(xlabel="devices", ylabel="milliseconds of a step")
    right.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value * 1e3:g}"))
    right.legend(frameon=False, fontsize=8)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    files.write_bytes(path, content.getvalue())
