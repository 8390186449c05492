"""Benchmarks as a table for a terminal and a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

MODULE_HEADER = ("N", "C", "k", "pst ms", "textbook", "speed-up", "roofline", "pst MB", "textbook")
MODEL_HEADER = ("model", "ms", "10-90 %", "ratio", "params", "GFLOPs")


def module_rows(records: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """One row of `MODULE_HEADER` for each record of `run_modules`; roofline: pst's time over the least possible."""
    return [
        (
            str(r["n"]),
            str(r["channels"]),
            str(r["topk"]),
            f"{r['pst_ms']['median']:.2f}",
            f"{r['textbook_ms']['median']:.2f}",
            f"{r['speedup']:.2f}×",
            f"{r['pst_ms']['median'] / r['roofline_ms']:.1f}×" if "roofline_ms" in r else "–",
            f"{r['pst_mb']:.1f}" if "pst_mb" in r else "–",
            f"{r['textbook_mb']:.1f}" if "textbook_mb" in r else "–",
        )
        for r in records
    ]


def model_rows(records: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """One row of `MODEL_HEADER` for each record of `run_models`."""
    return [
        (
            r["model"],
            f"{r['ms']['median']:.1f}",
            f"{r['ms']['low']:.1f}-{r['ms']['high']:.1f}",
            f"{r['ratio']:.2f}×",
            f"{r['parameters']:,}",
            f"{r['gflops']:.2f}",
        )
        for r in records
    ]


def plot_modules(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Time and memory against N, one line for each implementation, C and k, as a PNG.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, unit, label in zip(figure.subplots(1, 2), ("ms", "mb"), ("milliseconds", "peak MB"), strict=True):
        for kind, style in (("pst", "-"), ("textbook", "--")):
            for i, (channels, k) in enumerate(sorted({(r["channels"], r["topk"]) for r in records})):
                points = [
                    (r["n"], r[f"{kind}_ms"]["median"] if unit == "ms" else r.get(f"{kind}_mb"))
                    for r in records
                    if (r["channels"], r["topk"]) == (channels, k) and (unit == "ms" or r.get(f"{kind}_mb", 0) > 0)
                ]
                if points:
                    axes.plot(
                        *zip(*sorted(points), strict=True), style, marker="o", markersize=3, color=f"C{i}",
                        label=f"{kind}, C={channels}, k={k}",
                    )  # fmt: skip
        axes.set(xlabel="query tokens N", ylabel=label)
        if axes.lines:
            axes.set(xscale="log", yscale="log")
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=7)
    figure.savefig(path, dpi=150)
