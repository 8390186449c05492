"""Bounded coarse tokens: a layer with and without, a pyramid beside torchvision's FPN, a pyramid as images grow."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lab.bench.rivals import FPN, Neck
from lab.bench.suites import ratio_records
from pst.control.folding import fuse
from pst.modules import PST, PSTPyramid
from pst.profile.memory import added_memory
from pst.profile.timing import Timing, interleave

CHANNELS, REDUCTIONS, WIDTH = (64, 128, 256), (8, 16, 32), 64  # of YOLO11n's maps, and of the necks' results
SIDES = (640, 2560)


def run_bounded(*, seconds: float = 5.0, min_runs: int = 5) -> list[dict[str, Any]]:
    """Three groups of cases that take turns; forward, float32, batch of one, norms folded.

    Returns:
        One record for each case: ``group``, name, times, ratio to the first of its group; necks with their parameters;
        the growing pyramid with its image's ``pixels`` and on Linux the memory of one call, its maps included, in
        10⁶ bytes.
    """
    timed = partial(interleave, seconds=seconds, min_runs=min_runs)
    x, upper = _map(128, 80), _map(128, 40)
    layer = {f"PST, {_tokens(n)}": _call(_ready(PST(128, 128, 128, max_tokens=n)), x, upper) for n in (None, 400, 100)}
    necks = _necks()
    maps = _maps(640)
    grown = {f"PSTPyramid, 400 tokens, {side} px": _call(pyramid(400), *_maps(side)) for side in SIDES}
    return [
        *_records("layer", timed(layer)),
        *_records("neck", timed({name: _call(neck, *maps) for name, neck in necks.items()}), necks),
        *[record | _size(side) for record, side in zip(_records("pyramid", timed(grown)), SIDES, strict=True)],
    ]


def _records(group: str, times: dict[str, Timing], necks: dict[str, nn.Module] | None = None) -> list[dict[str, Any]]:
    records = [{"group": group, **record} for record in ratio_records(times)]
    for record in records if necks else []:
        assert necks is not None
        record["parameters"] = sum(p.numel() for p in necks[record["name"]].parameters())
    return records


def _size(side: int) -> dict[str, Any]:
    memory = {"mb": added_memory(once, side, threads=torch.get_num_threads())} if sys.platform == "linux" else {}
    return {"pixels": side**2, **memory}


def once(side: int, *, warmup: bool = False) -> None:
    """What `added_memory` runs: one pyramid of 400 tokens for an image of that side, small to warm up."""
    _call(pyramid(400), *_maps(min(side, 320) if warmup else side))()


def pyramid(max_tokens: int | None) -> nn.Module:
    """A PSTPyramid over strides 8, 16 and 32."""
    return _ready(Neck(PSTPyramid(CHANNELS, WIDTH, max_tokens=max_tokens)))


def _necks() -> dict[str, nn.Module]:
    """torchvision's FPN of the width that comes nearest to the pyramid's parameters, and the pyramid."""
    ours = {f"PSTPyramid, {_tokens(n)}": pyramid(n) for n in (None, 100)}
    wanted = sum(p.numel() for p in ours["PSTPyramid, 100 tokens"].parameters())
    width = min(range(16, 257, 2), key=lambda width: abs(fpn_parameters(width) - wanted))
    return {f"FPN (torchvision), {width} wide": _ready(FPN(list(CHANNELS), width)), **ours}


def fpn_parameters(width: int) -> int:
    """Of torchvision's FPN: 1×1 laterals and a 3×3 convolution for each level, with biases."""
    return sum(channels * width + width + 9 * width**2 + width for channels in CHANNELS)


def _ready(module: nn.Module) -> nn.Module:
    module = module.eval()
    ours = not isinstance(module, FPN)
    return (fuse(module) if ours else module).to(memory_format=torch.channels_last)


def _call(module: nn.Module, *maps: Tensor) -> Callable[[], object]:
    @torch.inference_mode()
    def call() -> object:
        return module(*maps)

    return call


def _maps(side: int) -> Sequence[Tensor]:
    return [_map(channels, side // reduction) for channels, reduction in zip(CHANNELS, REDUCTIONS, strict=True)]


def _map(channels: int, side: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, channels, side, side, generator=generator).to(memory_format=torch.channels_last)


def _tokens(bound: int | None) -> str:
    return "all tokens" if bound is None else f"{bound} tokens"
