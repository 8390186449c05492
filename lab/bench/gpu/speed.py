"""Sections of the GPU benchmark that measure time and memory: the layer and whole models, batch 1 and 32."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import nn

from lab.bench import Case, added_memory_cuda, interleave, measure_roofline, run_models
from lab.bench.gpu.correctness import Save, attempt, implementations
from pst.control import set_max_tokens, set_topk

BATCHES = (1, 32)
DTYPES = (torch.float32, torch.bfloat16)


def modules(device: str, quick: bool, save: Save) -> None:
    """The attention and the training step of a PST layer: ours, compiled and the textbook's in turn."""
    seconds = 0.2 if quick else 0.6
    for dtype in DTYPES:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        peaks = measure_roofline(device, dtype, seconds=0.5)
        save({"roofline": asdict(peaks), "dtype": str(dtype)})
        sizes = ((10, 32),) if quick else ((20, 64), (80, 64), (160, 64))
        for (layer, train), (side, channels), batch, k in itertools.product(
            (("attention", False), ("PST", True)), sizes, BATCHES[: 1 if quick else None], (0, 8)
        ):
            case = Case(side, channels, k, layer=layer, train=train, batch=batch, device=device, dtype=dtype)
            save(_describe(case) | attempt(partial(_module, case, peaks, seconds)))


def _describe(case: Case) -> dict[str, Any]:
    return {name: str(value) if name == "dtype" else value for name, value in asdict(case).items()}


def _module(case: Case, peaks: Any, seconds: float) -> dict[str, Any]:
    # the textbook keeps N×M logits and their softmax, with gradients several times: leave it out where it cannot fit
    logits = case.batch * case.channels // 32 * case.side**4 // 4 * torch.finfo(case.dtype).bits // 8
    kinds = ["pst", *implementations(case.device)[1:]]
    kinds += ["textbook"] if logits * (6 if case.train else 3) < 30e9 else []
    calls = {kind: case.call(kind) for kind in kinds}
    times = interleave(calls, seconds=seconds)
    least = peaks.least_ms(case.work())
    record: dict[str, Any] = {f"{kind}_ms": t.__dict__ for kind, t in times.items()}
    record |= {"least_ms": least, "share": least / times["pst"].median}
    if "textbook" in times:
        record["speedup"] = times["textbook"].median / times["pst"].median
    if case.device != "cpu":
        record |= {f"{kind}_mb": added_memory_cuda(call) for kind, call in calls.items()}
    return record


def detectors(device: str, quick: bool, save: Save) -> None:
    """Whole YOLO detectors, batch norms folded, in float32 (TF32 off) and float16."""
    from lab.study.runners import yolo_sums  # noqa: F401  # pyright: ignore[reportUnusedImport] adds Sum rows
    from pst.integrations.ultralytics import YOLO

    def build(name: str, k: int | None, tokens: int | None) -> nn.Module:
        yolo: Any = YOLO(f"{name}.yaml")
        if k is not None:
            set_topk(yolo, k)
            set_max_tokens(yolo, tokens)
        return yolo.model.fuse(verbose=False)

    names: dict[str, tuple[str, int | None, int | None]] = {
        "yolo11n": ("yolo11n", None, None),
        "yolo11n-pst k=0": ("yolo11n-pst", 0, None),
        "yolo11n-pst k=0, 100 tokens": ("yolo11n-pst", 0, 100),
        "yolo11n-pst k=8": ("yolo11n-pst", 8, None),
        "yolo11n-pst k=8, 100 tokens": ("yolo11n-pst", 8, 100),
        "yolo11n-pst-neck k=0": ("yolo11n-pst-neck", 0, None),
        "yolo11n-pst-neck k=0, 100 tokens": ("yolo11n-pst-neck", 0, 100),
        "yolo12n": ("yolo12n", None, None),
        "yolo26n": ("yolo26n", None, None),
        "yolo26n-pst-neck k=0": ("yolo26n-pst-neck", 0, None),
    }
    builders = {label: partial(build, *names[label]) for label in list(names)[: 3 if quick else None]}
    _models(builders, device, quick, save, imgsz=640)


def classifiers(device: str, quick: bool, save: Save) -> None:
    """ResNets of timm with and without PST, in float32 (TF32 off) and float16."""
    import timm

    import pst.integrations.timm  # noqa: F401  # pyright: ignore[reportUnusedImport] registers the models

    def build(name: str, k: int | None, tokens: int | None) -> nn.Module:
        model = timm.create_model(name)
        if k is not None:
            set_topk(model, k)
            set_max_tokens(model, tokens)
        return model

    builders = {
        f"{prefix}{name}{label}": partial(build, prefix + name, k, tokens)
        for name in ("resnet18", "resnet50")[: 1 if quick else None]
        for prefix, label, k, tokens in (
            ("", "", None, None),
            ("pst_", " k=0", 0, None),
            ("pst_", " k=8", 8, None),
            ("pst_", " k=0, 16 tokens", 0, 16),
        )
    }
    _models(builders, device, quick, save, imgsz=224)


def _models(builders: dict[str, Callable[[], nn.Module]], device: str, quick: bool, save: Save, *, imgsz: int) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    for dtype, batch in itertools.product(
        (torch.float32,) if device == "cpu" else (torch.float32, torch.float16), BATCHES[: 1 if quick else None]
    ):
        size = 64 if quick else imgsz
        seconds = 0.1 if quick else 0.7 * len(builders)

        def run(dtype: torch.dtype = dtype, batch: int = batch, size: int = size, seconds: float = seconds) -> Any:
            return {
                "models": run_models(builders, imgsz=size, batch=batch, seconds=seconds, device=device, dtype=dtype)
            }

        save({"imgsz": size, "batch": batch, "dtype": str(dtype)} | attempt(run))
