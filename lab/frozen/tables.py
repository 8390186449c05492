"""The tables of the page, as Markdown, from the result files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.frozen.rows import DETECTED, FIRST, ROWS
from lab.frozen.segment import FINE
from lab.frozen.widths import neck_gflops
from lab.study.intervals import Estimate, difference, gain, value
from pst.io.files import read_json

Results = Mapping[str, list[dict[str, Any]]]
NONE = "–"
VERSIONS = ("torch", "torchvision", "timm", "segmentation-models-pytorch")
_NAMES = {
    "fpn": "FPN",
    "plain-fpn": "FPN without BatchNorm",
    "pan": "PAN",
    "bifpn": "BiFPN",
    "pooled-fpn": "FPN with pyramid pooling",
    "laterals": "no neck",
}
_SMP = {
    "fpn": "FPN",
    "pan": "PAN",
    "upernet": "UPerNet",
    "deeplabv3plus": "DeepLabV3+, strides 8 and 32,",
    "deeplabv3plus-s4": "DeepLabV3+, strides 4 and 16,",
    "segformer": "SegFormer",
}  # as segmentation_models_pytorch calls them


def load(folder: Path, part: str, *, trained: bool = False) -> Results:
    """Results of a data set by row, in the order of seeds; rows without one are left out."""
    found: dict[str, list[dict[str, Any]]] = {}
    start = f"{part}-{'trained-' if trained else ''}"
    for name in ROWS:
        paths = sorted(folder.glob(f"{start}{name}-[0-9]*.json"), key=lambda p: int(p.stem.rpartition("-")[2]))
        if paths:
            found[name] = [read_json(path) for path in paths]
    return found


def title(name: str) -> str:
    """What a row is called."""
    row = ROWS[name]
    if row.kind.startswith("smp-"):
        return f"{_SMP[row.kind.removeprefix('smp-')]} of segmentation_models_pytorch"
    if row.kind != "pst":
        return _NAMES[row.kind]
    o = row.options
    parts = ["add, aligned" if o.get("aligned") else str(o["wiring"])]
    parts += ["DySample"] if o.get("upsample") == "dysample" else []
    parts += ["depth 2"] if o.get("depth") == 2 else []
    parts += ["bottom_up"] if o.get("bottom_up") else []
    parts += ["max_tokens = 100"] if "max_tokens" in o else []
    return "PST: " + ", ".join(parts)


def segmentation(results: Results, group: str, latency: Mapping[str, Mapping[str, float]]) -> str:
    """Mean IoU on val and test, Δ from the row of `FIRST`, which has a dash there, and costs; best on val first."""
    rows = [name for name in results if ROWS[name].group == group]
    first = FIRST[group] if FIRST[group] in rows else rows[0]
    rows.sort(key=lambda name: -value(_of(results, name, "val"), "k0").mean)
    header = ["neck", "val mIoU", "test mIoU", "Δ val", "Δ test", "parameters, 1000s", "GFLOPs", "seeds"]
    devices = [device for device in latency if any(name in latency[device] for name in rows)]
    lines = []
    for name in rows:
        test = _of(results, name, "test")
        versus = [NONE if name == first else _difference(results, name, first, split) for split in ("val", "test")]
        cost = results[name][0]["widths"]
        lines.append(
            [
                title(name),
                points(value(_of(results, name, "val"), "k0")),
                points(value(test, "k0")),
                *versus,
                f"{cost['parameters'] / 1e3:.0f}",
                f"{cost['gflops']:.2f}",
                str(len(test)),
                *(_time(latency[device], name) for device in devices),
            ]
        )
    return markdown([*header, *(f"ms, {device}" for device in devices)], lines)


def fine(results: Results, split: str) -> str:
    """What k = 8 adds to each row with attention, by rule."""
    lines = []
    for name, found in results.items():
        if ROWS[name].kind == "pst":
            own = [r[split] for r in found]
            lines.append([title(name), ROWS[name].group, *(signed(gain(own, variant)) for variant in FINE)])
    return markdown([f"{split}: k = 8 against k = 0", "finest level", *FINE.values()], lines)


def boxes(results: Results, latency: Mapping[str, Mapping[str, float]]) -> str:
    """AP of each row, of all objects and by size, Δ from the first of `DETECTED`, and costs of the necks."""
    first = DETECTED[0]
    fields = {"ap50": "AP50", "small": "small", "medium": "medium", "large": "large"}
    lines = []
    for name in sorted(results, key=lambda n: -value(_of(results, n, "val"), "k0").mean):
        own = _of(results, name, "val")
        versus = NONE if name == first or first not in results else _difference(results, name, first, "val")
        sizes = [points(value(own, "k0", field)) for field in fields]
        costs = [f"{results[name][0]['neck_parameters'] / 1e3:.0f}", f"{neck_gflops(ROWS[name]):.2f}"]
        head = [title(name), ROWS[name].group, points(value(own, "k0")), versus]
        lines.append([*head, *sizes, *costs, str(len(own)), *(_time(times, name) for times in latency.values())])
    header = ["neck", "finest level", "AP", "Δ AP", *fields.values(), "parameters, 1000s", "GFLOPs"]
    return markdown([*header, "seeds", *(f"ms, {device}" for device in latency)], lines)


def made(results: Sequence[Results]) -> str:
    """Where the results are from."""
    files = [r for each in results for found in each.values() for r in found]
    lines: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for r in files:
        device = r["hardware"]["gpus"][0] if r["settings"]["device"] == "cuda" else r["hardware"]["cpu"]
        versions = ", ".join(f"{k} {r['versions'][k]}" for k in VERSIONS if k in r["versions"])
        settings = f"{r['settings']['epochs']} epochs, batch {r['settings']['batch']}, lr {r['settings']['lr']:g}"
        kind = f"{r['cell']['part']}{', trained' if r['cell']['trained'] else ''}"
        lines.setdefault((kind, settings, r["settings"]["data"], device, versions), []).append(r)
    header = ["data", "recipe", "pictures", "device", "versions", "commits", "dates", "cells"]
    return markdown(
        header,
        [
            [*key, _all(found, lambda r: _short(r["commit"])), _all(found, lambda r: r["date"]), str(len(found))]
            for key, found in lines.items()
        ],
    )


def _all(found: Sequence[dict[str, Any]], read: Callable[[dict[str, Any]], str]) -> str:
    """What these results hold there, each once."""
    return ", ".join(dict.fromkeys(read(r) for r in sorted(found, key=lambda r: (r["date"], r["commit"]))))


def _short(commit: str) -> str:
    """The first letters, and a plus where files were changed beside it."""
    return commit[:7] + ("+" if commit.endswith("-dirty") else "")


def points(e: Estimate) -> str:
    """Mean ± standard deviation between seeds, in percent."""
    if e.mean < 0:  # COCO's −1: no such object
        return NONE
    return f"{100 * e.mean:.1f}" + ("" if e.sd is None else f" ± {100 * e.sd:.1f}")


def signed(e: Estimate) -> str:
    """A difference and its interval, in points; bold where the interval excludes zero."""
    assert e.low is not None
    assert e.high is not None
    figures = [f"{100 * v + 0.0:.2f}" for v in (e.low, e.high)]
    text = f"{100 * e.mean:+.2f} [{', '.join(figures)}]".replace("-", "−")
    return f"**{text}**" if e.excludes_zero else text


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first column is text, the others figures."""
    rule = ["---", *(["---:"] * (len(header) - 1))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows))


def _of(results: Results, name: str, split: str) -> list[dict[str, Any]]:
    return [r[split] for r in results[name]]


def _difference(results: Results, name: str, other: str, split: str) -> str:
    return signed(difference(_of(results, name, split), "k0", _of(results, other, split), "k0"))


def _time(times: Mapping[str, float], name: str) -> str:
    return f"{times[name]:.2f}" if name in times else NONE
