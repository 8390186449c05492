"""The seven suites, and how much of each is measured: in full, for a check of two minutes, or to try the code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from typing import Any

import torch

from lab.bench.blocks import run_blocks
from lab.bench.bounded import run_bounded
from lab.bench.cases import Case
from lab.bench.detectors import run_detectors, run_exports
from lab.bench.imports import run_imports
from lab.bench.rivals import LEVELS, WIDTH, layers, necks, run_rivals
from lab.bench.roofline import Roofline, measure_roofline
from lab.bench.suites import run_cases
from pst.profile.environment import environment

Sizes = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Plan:
    """How much to measure.

    Attributes:
        sizes: (side of the fine map, channels) of the attention in eval mode; each with k = 0 and 8.
        train_sizes: Of the training step of a PST layer.
        memory_from: Least N at which peak memory is measured, of the attention and of the training step.
        rivals: Whether other layers and necks are measured too.
        detectors: Groups of models that take turns, the first of each being its baseline.
        exported: Models that are written for ONNX Runtime and OpenVINO.
        imgsz: Side of their images in pixels.
        imports: Rounds of fresh interpreters.
        seconds: Time for each comparison.
        min_runs: Rounds of a comparison at least.
        device: Where modules and detectors run.
    """

    sizes: Sizes
    train_sizes: Sizes
    memory_from: tuple[int, int]
    rivals: bool
    detectors: tuple[tuple[str, ...], ...]
    exported: tuple[str, ...]
    imgsz: int
    imports: int
    seconds: float
    min_runs: int
    device: str = "cpu"


_PAIR = ("yolo11n", "yolo11n-pst k=0", "yolo11n-pst k=8")
_BOUNDED = ("yolo11n-pst k=0 tokens=100", "yolo11n-pst-neck k=0", "yolo11n-pst-neck k=0 tokens=100")
FULL = Plan(
    sizes=((10, 32), (20, 32), (40, 32), (80, 32), (80, 64), (80, 128), (160, 64)),
    train_sizes=((20, 32), (40, 32), (80, 32), (80, 64), (80, 128)),
    memory_from=(1, 1),
    rivals=True,
    detectors=(
        (*_PAIR, *_BOUNDED, "yolo11n-pst k=0, its A2C2f rows", "yolo12n", "yolo26n", "yolo26n-pst-neck k=0"),
        ("yolo11s", "yolo11s-pst k=0", "yolo11s-pst k=8", "yolo12s", "yolo26s", "yolo26s-pst-neck k=0"),
    ),
    exported=(*_PAIR, *_BOUNDED),
    imgsz=640,
    imports=9,
    seconds=4.0,
    min_runs=5,
)
CHECK = replace(
    FULL, sizes=((10, 32), (20, 32), (40, 32), (80, 32), (80, 64), (80, 128), (160, 64)), train_sizes=((80, 64),),
    memory_from=(25600, 6400), rivals=False, detectors=(_PAIR,), exported=_PAIR[:2], imports=3, seconds=1.0, min_runs=3,
)  # fmt: skip
QUICK = replace(
    CHECK,
    sizes=((10, 32), (20, 32), (40, 32)),
    train_sizes=((20, 32),),
    memory_from=(1600, 1600),
    imgsz=320,
    rivals=True,
)


def measure_suite(name: str, plan: Plan) -> dict[str, Any]:
    """Run one suite.

    Args:
        name: A key of `SUITES`.
        plan: How much of it.

    Returns:
        Ready for JSON: ``suite``, ``created``, ``settings``, ``roofline``, hardware, versions and commit, ``records``
        and, for modules, ``rivals``.
    """
    peaks = measure_roofline(plan.device, seconds=min(3.0, plan.seconds))
    return {
        "suite": name,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "settings": {**asdict(plan), "dtype": "float32"},
        "roofline": asdict(peaks),
        **environment(),
        **SUITES[name](plan, peaks),
    }


def _modules(plan: Plan, peaks: Roofline) -> dict[str, Any]:
    cases = [Case(side, c, k, device=plan.device) for side, c in plan.sizes for k in (0, 8)]
    result: dict[str, Any] = {"records": _cases(cases, plan, peaks)}
    if plan.rivals and plan.device == "cpu":
        seconds = 2.5 * plan.seconds
        groups = {
            f"layer, {side}×{side}": (layers(), _maps([(2 * WIDTH, side), (2 * WIDTH, side // 2)])) for side in (40, 80)
        } | {"neck, 80×80 40×40 20×20": (necks(), _maps(LEVELS))}
        result["rivals"] = {
            name: run_rivals(builders, maps, roofline=peaks, seconds=seconds)
            for name, (builders, maps) in groups.items()
        }
    return result


def _train(plan: Plan, peaks: Roofline) -> dict[str, Any]:
    cases = [
        Case(side, c, k, layer="PST", train=True, device=plan.device) for side, c in plan.train_sizes for k in (0, 8)
    ]
    return {"records": _cases(cases, plan, peaks)}


def _window(plan: Plan, _: Roofline) -> dict[str, Any]:
    return {"records": run_blocks(seconds=2 * plan.seconds, min_runs=plan.min_runs)}


def _bounded(plan: Plan, _: Roofline) -> dict[str, Any]:
    return {"records": run_bounded(seconds=plan.seconds, min_runs=plan.min_runs)}


def _cases(cases: list[Case], plan: Plan, peaks: Roofline) -> list[dict[str, Any]]:
    return run_cases(
        cases, roofline=peaks, seconds=plan.seconds, min_runs=plan.min_runs,
        memory=lambda case: case.side**2 >= plan.memory_from[case.train],
    )  # fmt: skip


def _detectors(plan: Plan, peaks: Roofline) -> dict[str, Any]:
    seconds = 1.5 * plan.seconds
    groups = [
        run_detectors(names, imgsz=plan.imgsz, seconds=seconds * len(names), roofline=peaks, device=plan.device)
        for names in plan.detectors
    ]
    return {"records": [{"baseline": group[0]["name"], **record} for group in groups for record in group]}


def _exports(plan: Plan, peaks: Roofline) -> dict[str, Any]:
    seconds = 2 * plan.seconds * len(plan.exported)
    return {"records": run_exports(plan.exported, imgsz=plan.imgsz, seconds=seconds, roofline=peaks)}


def _imports(plan: Plan, _: Roofline) -> dict[str, Any]:
    return {"records": run_imports(plan.imports)}


def _maps(sizes: Any) -> list[torch.Tensor]:
    return [torch.randn(1, c, side, side).to(memory_format=torch.channels_last) for c, side in sizes]


SUITES: dict[str, Callable[[Plan, Roofline], dict[str, Any]]] = {
    "module": _modules,
    "train": _train,
    "window": _window,
    "bounded": _bounded,
    "model": _detectors,
    "export": _exports,
    "import": _imports,
}
