"""The two pictures of the page."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from lab.study.plots import png
from lab.two_maps import plan
from lab.two_maps.figures import Records, Sample
from lab.two_maps.tables import setting_title, title

WINDOWS = (1, 2, 4, 8, 16, 32)
APART = (plan.STEP, 1, 2, 5)
LEVELS = {"all": "C3", "nearest": "C1", "random-window-0": "C4", "k0": "C7"}


def against_cost(records: Records, costs: Records | None, setting: str) -> bytes | None:
    """PNG of mean IoU against k and against time; None where the curve was not run."""
    sample = Sample(records, setting)
    windows = {k: f"window-{k}" for k in WINDOWS if sample.size(f"window-{k}")}
    if len(windows) < 2 or not sample.size("k0", "all"):
        return None
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    points = [sample.value(row) for row in windows.values()]
    bars = [[p.value - p.low for p in points], [p.high - p.value for p in points]]
    left.errorbar(range(len(windows)), [p.value for p in points], bars, marker="o", capsize=3, label="window")
    for row, color in LEVELS.items():
        if sample.size(row):
            left.axhline(sample.value(row).value, color=color, linestyle="--", label=title(row))
    where = setting_title(setting)
    left.set(xticks=range(len(windows)), xticklabels=list(windows), xlabel="k", ylabel=f"mIoU, {where}")
    left.legend(fontsize=8)
    times = None if costs is None else costs.get(f"time {plan.DEFAULT}")
    if times is not None:
        rows = [*windows.values(), "k0", "nearest", "dense-products", "dense-2", "ratio-2", "query-8", "all"]
        for row in rows:
            if sample.size(row) and row in times:
                color = "C0" if row in windows.values() else LEVELS.get(row, "C2")
                place = (times[row]["ms"], sample.value(row).value)
                right.plot(*place, "o", color=color)
                right.annotate(row, place, fontsize=7, xytext=(3, 4), textcoords="offset points")
        right.set(xscale="log", xlabel="ms on one core")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    return png(figure)


def against_time(records: Records, rows: Sequence[str]) -> bytes | None:
    """PNG of mean IoU against the time between two frames of val; None where one time alone was run."""
    samples = {seconds: Sample(records, plan.setting("val", seconds)) for seconds in APART}
    samples = {seconds: s for seconds, s in samples.items() if s.size(*rows)}
    if len(samples) < 2:
        return None
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for i, row in enumerate(rows):
        points = [s.value(row) for s in samples.values()]
        bars = [[p.value - p.low for p in points], [p.high - p.value for p in points]]
        places = [j + 0.05 * (i - len(rows) / 2) for j in range(len(samples))]
        axes.errorbar(places, [p.value for p in points], bars, marker="o", capsize=3, label=title(row))
    labels = ["1/15" if seconds == plan.STEP else f"{seconds:g}" for seconds in samples]
    axes.set(xticks=range(len(samples)), xticklabels=labels, xlabel="seconds between the frames", ylabel="mIoU, val")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return png(figure)
