"""Loss and mAP over the epochs, a picture each: a narrow page shows one below the other."""

from __future__ import annotations

import io
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_LOSSES = (("box_loss", "box", "#1f6feb"), ("cls_loss", "class", "#d9480f"), ("dfl_loss", "distribution", "#2b8a3e"))
_METRICS = (
    ("metrics/mAP50(B)", "mAP50", "#1f6feb"),
    ("metrics/mAP50-95(B)", "mAP50-95", "#d9480f"),
)


def draw_curves(columns: dict[str, list[float]]) -> tuple[bytes, bytes]:
    """Two PNGs, the losses (train solid, val dashed) and the val mAP, from Ultralytics' results.csv by column.

    Raises:
        KeyError: A column is missing.
    """
    epochs = columns["epoch"]
    losses, axes = _axes("loss (train solid, val dashed)", epochs)
    for name, label, color in _LOSSES:
        axes.plot(epochs, columns[f"train/{name}"], color=color, label=label, marker=".")
        axes.plot(epochs, columns[f"val/{name}"], color=color, linestyle="--", linewidth=1, marker=".", markersize=3)
    metrics, axes = _axes("mAP on val, k = 0", epochs)
    for name, label, color in _METRICS:
        axes.plot(epochs, columns[name], color=color, label=label, marker=".")
    axes.set_ylim(0, 1)
    return _png(losses), _png(metrics)


def _axes(what: str, epochs: list[float]) -> tuple[Figure, Any]:
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set(xlabel="epoch", ylabel=what)
    axes.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)  # whole numbers on the axis, of one epoch too
    axes.locator_params(axis="x", integer=True, min_n_ticks=1)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _png(figure: Figure) -> bytes:
    figure.axes[0].legend(frameon=False)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=160)
    return out.getvalue()
