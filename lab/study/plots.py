"""Pictures of a study's results."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from lab.study.intervals import Estimate, gain, value
from lab.study.tables import Results, latency, parse_row
from lab.study.variants import k_order, ways

_MARKERS = "osv^"  # one for each round of the ten colours
_COLUMNS = 4  # panels side by side


def accuracy_against_cost(results: Results, data: str, rows: Sequence[str]) -> bytes | None:
    """PNG of the metric against GFLOPs and against latency, with the standard deviation over seeds as bars.

    Args:
        results: From `lab.study.tables.group`.
        data: Data set.
        rows: As a methods table has them.

    Returns:
        None when no row has results.
    """
    points = []
    for row in rows:
        model, recipe, variant = parse_row(row)
        seeds = results.get((data, model, recipe))
        if seeds is not None and variant in seeds[0]["evaluations"]:
            points.append((row, value(seeds, variant), seeds, variant))
    if not points:
        return None
    figure = Figure(figsize=(12, 4), layout="constrained")
    for axes, what in zip(figure.subplots(1, 2), ("GFLOPs", "ms per image"), strict=True):
        for i, (row, estimate, seeds, variant) in enumerate(points):
            x = seeds[0]["gflops"].get(variant) if what == "GFLOPs" else next(iter(latency(seeds, variant).values()))
            if x is None:
                continue
            spread = 0.0 if estimate.sd is None else 100 * estimate.sd
            marker = _MARKERS[i // 10 % len(_MARKERS)]
            axes.errorbar(x, 100 * estimate.mean, spread, fmt=marker, capsize=3, color=f"C{i % 10}", label=row)
        axes.set(xlabel=what, ylabel=f"{points[0][2][0]['metric']} (%)", title=data)
        axes.margins(x=0.1)
        axes.grid(alpha=0.3)
    figure.legend(*figure.axes[1].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return png(figure)


def accuracy_against_k(results: Results, data: str, model: str) -> bytes | None:
    """PNG of the gain over the same weights' k = 0 against k: a panel for each recipe, a line for each way.

    Bars are 95 % intervals of the paired bootstrap.

    Returns:
        None when there are no results with k > 0.
    """
    panels = {}
    for (d, m, recipe), seeds in results.items():
        found = ways(seeds[0]["evaluations"]).get(None, {})
        if (d, m) == (data, model) and found:
            panels[recipe] = (seeds, {way: names for way, names in found.items() if len(names) > 1})
    if not panels:
        return None
    columns, lines_of_panels = min(_COLUMNS, len(panels)), -(-len(panels) // _COLUMNS)
    figure = Figure(figsize=(4.2 * columns, 4 * lines_of_panels), layout="constrained")
    grid: Any = figure.subplots(lines_of_panels, columns, sharey=True, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    for axes, (recipe, (seeds, lines)) in zip(grid.flat, panels.items(), strict=False):
        ks = sorted({k for names in lines.values() for k in names}, key=k_order)
        for i, (way, names) in enumerate(lines.items()):
            estimates = {ks.index(k): gain(seeds, name) for k, name in names.items()}
            _line(axes, estimates, way, (i - len(lines) / 2) * 0.06, f"C{i % 10}")
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set(xlabel="k", title=f"{data}, {recipe}")
        axes.set_xticks(range(len(ks)), ks)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=6)
    for axes in grid[:, 0]:
        axes.set_ylabel("gain over k = 0 (points)")
    return png(figure)


def _line(axes: Any, estimates: Mapping[int, Estimate], label: str, shift: float, color: str) -> None:
    places = sorted(estimates)
    means = [100 * estimates[p].mean for p in places]
    low = [100 * (estimates[p].mean - (estimates[p].low or 0.0)) for p in places]  # gains always have an interval
    high = [100 * ((estimates[p].high or 0.0) - estimates[p].mean) for p in places]
    bars = [[max(b, 0.0) for b in low], [max(b, 0.0) for b in high]]
    x = [p + shift for p in places]
    axes.errorbar(x, means, bars, marker="o", markersize=3, capsize=2, label=label, color=color)


def png(figure: Figure, dpi: int = 130) -> bytes:
    """The figure as a PNG file, the same bytes for the same figure."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=dpi, metadata={"Software": None})
    return out.getvalue()
