"""The picture of the page: what a neck finds against the time it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from lab.frozen.rows import ROWS, Row
from lab.frozen.tables import Results
from lab.study.intervals import value
from lab.study.plots import png

_COLOURS = {
    "PST": "C0",
    "no neck": "C3",
    "FPN, PAN, BiFPN, pooling": "C1",
    "segmentation_models_pytorch": "C2",
}
_MARKERS = {"P3": "o", "P2": "s"}
_STRIDES = {"P3": "from stride 8", "P2": "from stride 4"}


def found_against_time(results: Results, latency: Mapping[str, Mapping[str, float]]) -> bytes:
    """PNG of test mIoU against milliseconds, a panel for each device; bars are standard deviations over seeds."""
    figure = Figure(figsize=(5.5 * len(latency), 4.6), layout="constrained")
    panels: Any = figure.subplots(1, len(latency), sharey=True, squeeze=False)[0]
    for axes, (device, times) in zip(panels, latency.items(), strict=True):
        for name, seeds in results.items():
            if name in times:
                row, found = ROWS[name], value([r["test"] for r in seeds], "k0")
                spread = 0.0 if found.sd is None else 100 * found.sd
                style = {"fmt": _MARKERS[row.group], "color": _COLOURS[_family(row)], "elinewidth": 0.8, "alpha": 0.8}
                axes.errorbar(times[name], 100 * found.mean, spread, **style)
        axes.set(xscale="log", xlabel=f"ms of one picture, {device}")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("test mIoU (%)")
    handles = [Line2D([], [], color=c, marker="o", linestyle="", label=name) for name, c in _COLOURS.items()]
    for group, marker in _MARKERS.items():
        handles.append(Line2D([], [], color="grey", marker=marker, linestyle="", label=_STRIDES[group]))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9)
    return png(figure)


def _family(row: Row) -> str:
    """What the colour says."""
    if row.kind == "pst":
        return "PST"
    if row.kind == "laterals":
        return "no neck"
    return "segmentation_models_pytorch" if row.kind.startswith("smp-") else "FPN, PAN, BiFPN, pooling"
