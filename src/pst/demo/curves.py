"""Loss and mAP over the epochs, as one picture."""

from __future__ import annotations

import io

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_LOSSES = (("box_loss", "box", "#1f6feb"), ("cls_loss", "class", "#d9480f"), ("dfl_loss", "distribution", "#2b8a3e"))
_METRICS = (
    ("metrics/mAP50(B)", "mAP50", "#1f6feb"),
    ("metrics/mAP50-95(B)", "mAP50-95", "#d9480f"),
)


def draw_curves(columns: dict[str, list[float]]) -> bytes:
    """PNG of the losses (train solid, val dashed) beside the val mAP, from Ultralytics' results.csv by column.

    Raises:
        KeyError: A column is missing.
    """
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    losses, metrics = figure.subplots(1, 2)
    epochs = columns["epoch"]
    for name, label, color in _LOSSES:
        losses.plot(epochs, columns[f"train/{name}"], color=color, label=label, marker=".")
        losses.plot(epochs, columns[f"val/{name}"], color=color, linestyle="--", linewidth=1)
    losses.set_ylabel("loss (train solid, val dashed)")
    for name, label, color in _METRICS:
        metrics.plot(epochs, columns[name], color=color, label=label, marker=".")
    metrics.set_ylabel("mAP on val, k = 0")
    metrics.set_ylim(0, 1)
    for axes in (losses, metrics):
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=160)
    return out.getvalue()
