"""Tables of the tool: against flow and the study's rows, and what its unknown pixels are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lab.two_maps import tables
from lab.two_maps.figures import Records, Sample, small
from lab.two_maps.frames import CLASSES
from lab.two_maps.plan import setting
from lab.two_maps.resample import mean_iou
from lab.two_maps.tool import PARTS, THRESHOLDS

ROWS = ("copy", "flow", "window-8", "tool")
TITLE = "`pst.propagate`, its defaults"


def against(tool: Records, labels: Records) -> str:
    """Mean IoU and that of the small classes, and the tool's gain over flow, on the pairs that all rows have."""
    joined = joined_records(tool, labels)
    header, columns = ["row"], []
    for name in settings(tool):
        columns.append((Sample(joined, name), Sample(joined, name, small)))
        header += [f"{tables.setting_title(name)}: mIoU", "four small"]
    lines = []
    for row in ROWS:
        cells = [f"**{TITLE}**" if row == "tool" else tables.title(row)]
        for every, few in columns:
            shown = every.size(row) > 0
            cells += [tables.interval(every.value(row)), f"{few.value(row).value:.1f}"] if shown else [tables.NONE] * 2
        lines.append(cells)
    gains = ["the tool against flow"]
    for every, few in columns:
        both = every.size("tool", "flow") > 0
        gains += (
            [tables.interval(s.gain("tool", "flow"), sign=True) for s in (every, few)] if both else [tables.NONE] * 2
        )
    return tables.markdown(header, [*lines, gains])


def unknown(tool: Records) -> str:
    """Share of labelled pixels that stay known at each threshold, and the mean IoU among them."""
    header, columns = ["threshold"], []
    for name in settings(tool):
        columns.append(name)
        header += [f"{tables.setting_title(name)}: known, %", "mIoU of these"]
    whole = [f"{v:.1f}" for name in columns for v in (100.0, Sample(tool, name).value("tool").value)]
    lines = [["0, the default", *whole]]
    for threshold in THRESHOLDS:
        row, cells = f"sure-{threshold}", [f"{threshold:g}"]
        for name in columns:
            cells += [f"{Sample(tool, name, metric).value(row).value:.1f}" for metric in (covered, sure)]
        lines.append(cells)
    return tables.markdown(header, lines)


def settings(tool: Records) -> list[str]:
    """Those of `tool.PARTS` that there are pairs of."""
    names = [setting(part.split, part.seconds) for part in PARTS]
    return [name for name in names if any(key.startswith(f"{name} ") for key in tool)]


def joined_records(tool: Records, labels: Records) -> dict[str, Mapping[str, Any]]:
    """The tool's records with the rows of the study's first task beside them, where there are any."""
    return {key: {**labels.get(key, {}), **record} for key, record in tool.items()}


def covered(records: Sequence[Mapping[str, Any]], row: str, weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Percent of labelled pixels that are known."""
    known = np.array([sum(r[row][2 * CLASSES :]) for r in records], float)
    return 100 * (weight @ known) / (weight @ np.array([sum(r["true"]) for r in records], float))


def sure(records: Sequence[Mapping[str, Any]], row: str, weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean IoU among the pixels that are known."""
    true = [r[row][2 * CLASSES :] for r in records]
    return mean_iou(true, [r[row][: 2 * CLASSES] for r in records], weight)
