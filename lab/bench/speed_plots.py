"""Benchmarks as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pst.io.files import replacing


def plot_cases(records: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Time and memory against N, one line for each implementation, C and k, as a PNG.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    settings = sorted({(r["channels"], r["topk"]) for r in records})
    for axes, unit, label in zip(figure.subplots(1, 2), ("ms", "mb"), ("milliseconds", "peak MB"), strict=True):
        for kind, style in (("pst", "-"), ("textbook", "--")):
            for i, setting in enumerate(settings):
                points = [(r["n"], _value(r, f"{kind}_{unit}")) for r in records if _setting(r) == setting]
                points = sorted((n, value) for n, value in points if value > 0)
                if points:
                    name = f"{kind}, C={setting[0]}, k={setting[1]}"
                    axes.plot(*zip(*points, strict=True), style, marker="o", markersize=3, color=f"C{i}", label=name)
        axes.set(xlabel="query tokens N", ylabel=label)
        if axes.lines:
            axes.set(xscale="log", yscale="log")
            sizes = sorted({r["n"] for r in records})
            axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
            axes.set_xticks([], minor=True)
            axes.grid(alpha=0.3, which="both")
    figure.suptitle(title)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=7, handlelength=3.5)
    with replacing(path) as part:
        figure.savefig(part, dpi=120, format="png")


def _setting(record: dict[str, Any]) -> tuple[int, int]:
    return record["channels"], record["topk"]


def _value(record: dict[str, Any], field: str) -> float:
    value = record.get(field, 0.0)
    return value["median"] if isinstance(value, dict) else value
