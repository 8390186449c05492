"""What the project promises about its speed, and whether the measurements keep it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Records = Sequence[dict[str, Any]]
Figures = Iterator[tuple[float, str]]

_UNITS = {"ms": "ms", "mb": "MB"}


@dataclass(frozen=True)
class Target:
    """One promise: every figure on the right side of the bound.

    Attributes:
        what: What is measured.
        suite: Whose records the figures come from.
        sense: "≥" or "≤".
        bound: The promise.
        figures: Records -> (figure, what it is of), the worst of which is judged.
    """

    what: str
    suite: str
    sense: str
    bound: float
    figures: Callable[[Records], Figures]


def _cases(key: Callable[[dict[str, Any]], float | None], **where: tuple[int, ...]) -> Callable[[Records], Figures]:
    """Figures of the attention or layer cases whose fields are among the values given; cases without one are left."""

    def figures(records: Records) -> Figures:
        for r in records:
            value = key(r)
            if value is not None and all(r[field] in values for field, values in where.items()):
                yield value, f"N = {r['n']}, C = {r['channels']}, k = {r['topk']}"

    return figures


def _ratio(name: str, base: str, **where: str) -> Callable[[Records], Figures]:
    """Median time of one model over that of another."""

    def figures(records: Records) -> Figures:
        ms = {r["name"]: r["ms"]["median"] for r in records if all(r.get(k) == v for k, v in where.items())}
        if {name, base} <= ms.keys():
            yield ms[name] / ms[base], f"{ms[name]:.0f} against {ms[base]:.0f} ms"

    return figures


def _blocks(key: str, base: str) -> Callable[[Records], Figures]:
    """Time ("ms") or memory ("mb") of the rule "window" over that of another row of the suite "window"."""

    def figures(records: Records) -> Figures:
        of = {r["name"]: r["ms"]["median"] if key == "ms" else r["mb"] for r in records if key in r}
        if {"window k = 8", base} <= of.keys():
            own, other = of["window k = 8"], of[base]
            yield own / other, f"{own:.1f} against {other:.1f} {_UNITS[key]}"

    return figures


def _group(group: str, name: str, base: str) -> Callable[[Records], Figures]:
    """Median time of a case of the suite "bounded" over that of another, by the beginnings of their names."""

    def figures(records: Records) -> Figures:
        ms = {r["name"]: r["ms"]["median"] for r in records if r["group"] == group}
        own, other = (next((ms[n] for n in ms if n.startswith(start)), None) for start in (name, base))
        if own is not None and other is not None:
            yield own / other, f"{own:.1f} against {other:.1f} ms"

    return figures


def _per_pixel(key: str) -> Callable[[Records], Figures]:
    """Time ("ms") or memory ("mb") for each pixel of the largest image over that of the smallest."""

    def figures(records: Records) -> Figures:
        of = {r["pixels"]: r["ms"]["median"] if key == "ms" else r["mb"] for r in records if "pixels" in r and key in r}
        if len(of) > 1:
            small, large = min(of), max(of)
            yield of[large] / of[small] * small / large, f"{of[large]:.0f} against {of[small]:.1f} {_UNITS[key]}"

    return figures


def _speedup(r: dict[str, Any]) -> float:
    return r["speedup"]


def _within_reach(r: dict[str, Any]) -> float | None:
    """The speed on a processor whose `scaled_dot_product_attention` leaves a factor of 4 within reach."""
    return r["speedup"] if "op_ms" in r and r["textbook_ms"]["median"] >= 4.4 * r["op_ms"]["median"] else None


def _memory(r: dict[str, Any]) -> float | None:
    return r["pst_mb"] / r["textbook_mb"] if r.get("textbook_mb") else None


def _over_least(r: dict[str, Any]) -> float:
    return 1 / r["share"]


PST, PLAIN = "yolo11n-pst k=0", "yolo11n"
TARGETS = (
    Target("attention, N = 6400, C = 32/64/128, k = 0: speed / textbook's", "module", "≥", 3.0,
           _cases(_speedup, n=(6400,), channels=(32, 64, 128), topk=(0,))),
    Target("the same, where PyTorch's own attention alone gives 4.4× or more", "module", "≥", 4.0,
           _cases(_within_reach, n=(6400,), channels=(32, 64, 128), topk=(0,))),
    Target("attention, N = 25600, C = 64, k = 0 and 8: speed / textbook's", "module", "≥", 5.0,
           _cases(_speedup, n=(25600,), channels=(64,), topk=(0, 8))),
    Target("attention, N = 25600, C = 64, k = 0 and 8: memory / textbook's", "module", "≤", 1 / 20,
           _cases(_memory, n=(25600,), channels=(64,), topk=(0, 8))),
    Target("attention, N = 100 and 400, any k: speed / textbook's", "module", "≥", 0.85,
           _cases(_speedup, n=(100, 400))),
    Target("YOLO11n-PST at 640 px: k = 8 / k = 0", "model", "≤", 1.05, _ratio("yolo11n-pst k=8", PST)),
    Target("training step of a PST layer, N = 6400: speed / textbook's", "train", "≥", 2.0,
           _cases(_speedup, n=(6400,))),
    Target("training step of a PST layer, N = 6400: memory / textbook's", "train", "≤", 0.35,
           _cases(_memory, n=(6400,))),
    Target("window, k = 8: time / that of all fine tokens", "window", "≤", 0.25, _blocks("ms", "all fine")),
    Target("window, k = 8: time / that of k = 0", "window", "≤", 3.0, _blocks("ms", "k = 0")),
    Target("window, k = 8: memory / that of k = 0", "window", "≤", 2.0, _blocks("mb", "k = 0")),
    Target("PST layer, 80×80 over 40×40, C = 128: 100 tokens / all", "bounded", "≤", 0.35,
           _group("layer", "PST, 100", "PST, all")),
    Target("PSTPyramid, 100 tokens / torchvision's FPN of equal parameters", "bounded", "≤", 1.5,
           _group("neck", "PSTPyramid, 100", "FPN")),
    Target("PSTPyramid, 400 tokens, time per pixel: 2560 px / 640 px", "bounded", "≤", 1.15, _per_pixel("ms")),
    Target("PSTPyramid, 400 tokens, memory per pixel: 2560 px / 640 px", "bounded", "≤", 1.1, _per_pixel("mb")),
    *[
        Target(f"{name}, 100 tokens / YOLO11n at 640 px, {where}", suite, "≤", bound,
               _ratio(f"{name} k=0 tokens=100", PLAIN, **({} if suite == "model" else {"runtime": where})))
        for name, bound in (("yolo11n-pst-neck", 1.10), ("yolo11n-pst", 1.35))
        for suite, where in (("model", "eager fused"), ("export", "ONNX Runtime"), ("export", "OpenVINO"))
    ],
    Target("YOLO11n-PST / YOLO11n at 640 px, eager fused", "model", "≤", 1.35, _ratio(PST, PLAIN)),
    Target("YOLO11n-PST / YOLO11n at 640 px, ONNX Runtime", "export", "≤", 1.30,
           _ratio(PST, PLAIN, runtime="ONNX Runtime")),
    Target("YOLO11n-PST / YOLO11n at 640 px, OpenVINO", "export", "≤", 1.25, _ratio(PST, PLAIN, runtime="OpenVINO")),
    Target("attention, N ≥ 6400: time / least time of the roofline", "module", "≤", 2.5,
           _cases(_over_least, n=(6400, 25600))),
    Target("import pst, every public name / import torch", "import", "≤", 1.15,
           _ratio("import pst, every public name", "import torch")),
)  # fmt: skip


def judge(suites: Mapping[str, Mapping[str, Any]], targets: Sequence[Target] = TARGETS) -> list[dict[str, Any]]:
    """Compare measurements with the targets.

    Args:
        suites: Suite -> what `lab.bench.measure_suite` returned.
        targets: What to judge.

    Returns:
        One record for each target: ``what``, ``sense``, ``bound``, ``value`` (the worst figure), ``where`` (what it is
        of), ``met``, and ``missed_by``, a share of the bound; the last four are None where nothing was measured.
    """
    return [_judge(target, suites.get(target.suite, {}).get("records", ())) for target in targets]


def _judge(target: Target, records: Records) -> dict[str, Any]:
    record: dict[str, Any] = {
        "what": target.what, "sense": target.sense, "bound": target.bound,
        "value": None, "where": None, "met": None, "missed_by": None,
    }  # fmt: skip
    figures = sorted(target.figures(records))
    if figures:
        value, where = figures[0 if target.sense == "≥" else -1]
        met = {"≥": operator.ge, "≤": operator.le}[target.sense](value, target.bound)
        record |= {"value": value, "where": where, "met": met}
        record["missed_by"] = None if met else abs(value - target.bound) / target.bound
    return record
