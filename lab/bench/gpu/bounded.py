"""Section of the GPU benchmark on bounded coarse tokens: a layer, and a pyramid whose cost grows with the pixels."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from lab.bench import Case, added_memory_cuda, interleave
from lab.bench.cases import step
from lab.bench.gpu.correctness import Save, attempt
from pst.control import set_max_tokens
from pst.control.folding import fuse
from pst.modules import PSTPyramid

CHANNELS, WIDTH = (64, 128, 256), 64  # of the pyramid
BOUNDS: tuple[int | None, ...] = (None, 400, 100)


def bounded(device: str, quick: bool, save: Save) -> None:
    """PST at 80×80 over 40×40, C = 128, with each bound; `PSTPyramid` with 400 tokens, for each pixel."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    seconds = 0.1 if quick else 1.0
    dtypes = (torch.float32,) if quick else (torch.float32, torch.bfloat16)
    for dtype, train, batch, k in itertools.product(dtypes, (False, True), (1,) if quick else (1, 32), (0, 8)):
        side, channels = (16, 32) if quick else (80, 128)
        case = Case(side, channels, k, layer="PST", train=train, batch=batch, device=device, dtype=dtype)
        record = {"what": "layer", "side": side, "channels": channels, "topk": k, "train": train, "batch": batch}
        save(record | {"dtype": str(dtype)} | attempt(partial(_layer, case, seconds)))
    for dtype, k in itertools.product(dtypes, (0, 8)):
        record = {"what": "pyramid", "max_tokens": 400, "topk": k, "dtype": str(dtype)}
        save(record | attempt(partial(_pyramid, device, dtype, k, (64, 128) if quick else (640, 2560), seconds)))


def _layer(case: Case, seconds: float) -> dict[str, Any]:
    calls: dict[str, Callable[[], object]] = {}
    for bound in BOUNDS:
        module = case.module()
        set_max_tokens(module, bound)
        calls[str(bound)] = partial(step, module, *case.maps(), train=case.train)
    rows = _measured(calls, case.device, seconds)
    for row in rows.values():
        row["ratio"] = row["ms"]["median"] / rows["None"]["ms"]["median"]
    return {"rows": rows}


def _pyramid(device: str, dtype: torch.dtype, k: int, sides: tuple[int, int], seconds: float) -> dict[str, Any]:
    torch.manual_seed(0)
    module = fuse(PSTPyramid(CHANNELS, WIDTH, topk=k, max_tokens=400).eval().to(device, dtype))
    module = module.to(memory_format=torch.channels_last)
    rows = _measured({str(side): partial(_fuse_maps, module, _maps(device, dtype, side)) for side in sides}, device,
                     seconds)  # fmt: skip
    small, large = (rows[str(side)] for side in sides)
    pixels = (sides[1] / sides[0]) ** 2
    record = {"rows": rows, "time per pixel": large["ms"]["median"] / small["ms"]["median"] / pixels}
    return record | ({"memory per pixel": large["mb"] / small["mb"] / pixels} if "mb" in small else {})


def _maps(device: str, dtype: torch.dtype, side: int) -> list[torch.Tensor]:
    """Maps of reductions 8, 16 and 32 of an image of that side."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(1, channels, side // reduction, side // reduction, generator=generator)
        .to(device, dtype, memory_format=torch.channels_last)
        for channels, reduction in zip(CHANNELS, (8, 16, 32), strict=True)
    ]  # fmt: skip


def _fuse_maps(module: nn.Module, maps: list[torch.Tensor]) -> None:
    with torch.inference_mode():
        module(maps)


def _measured(calls: dict[str, Callable[[], object]], device: str, seconds: float) -> dict[str, dict[str, Any]]:
    """Name -> time, and on a GPU what one call adds to the memory in use."""
    rows: dict[str, dict[str, Any]] = {
        name: {"ms": t.__dict__} for name, t in interleave(calls, seconds=seconds).items()
    }
    if device != "cpu":
        for name, call in calls.items():
            rows[name]["mb"] = added_memory_cuda(call)
    return rows
