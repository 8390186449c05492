"""The benchmarks: which cases are run against which, and what is recorded of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pst.bench.memory import peak_memory
from pst.bench.roofline import Roofline
from pst.bench.textbook import textbook_forward
from pst.bench.timing import interleave
from pst.modules import PyramidSparseAttention

SIZES = ((10, 32), (20, 32), (40, 32), (80, 32), (80, 64), (80, 128), (160, 64))  # (height = width, channels)


def run_modules(
    sizes: Sequence[tuple[int, int]] = SIZES,
    topk: Sequence[int] = (0, 8),
    *,
    train: bool = False,
    memory: bool = True,
    roofline: Roofline,
    seconds: float = 5.0,
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """`PyramidSparseAttention` against the textbook, batch of one, channels_last, float32.

    Args:
        sizes: (side of the fine map, channels); the coarse map has half the side.
        topk: Values of k.
        train: Time forward and backward in training mode instead of the forward pass in eval mode.
        memory: Also measure peak memory, each case in a process of its own (CPU only).
        roofline: This machine's peaks.
        seconds: Time for each comparison.
        device: Where to run.

    Returns:
        One record for each size and k: times of both, their ratio, peak memory, share of the roofline.
    """
    records = []
    for side, channels in sizes:
        for k in topk:
            cases = {
                kind: partial(_step, *_build(kind, side, channels, k, train, device), train=train) for kind in KINDS
            }
            times = interleave(cases, seconds=seconds)
            record: dict[str, Any] = {"n": side * side, "channels": channels, "topk": k, "train": train}
            record |= {f"{kind}_ms": times[kind].__dict__ for kind in KINDS}
            record["speedup"] = times["textbook"].median / times["pst"].median
            if not train:
                keys = side * side // 4 + 4 * min(k, side * side // 4)
                record["roofline_ms"] = roofline.attention_ms(side * side, keys, channels)
            if memory and device == "cpu":
                threads = torch.get_num_threads()
                peaks = {kind: peak_memory(one_call, kind, side, channels, k, train, threads=threads) for kind in KINDS}
                record |= {f"{kind}_mb": peak for kind, peak in peaks.items()}
            records.append(record)
    return records


def run_models(
    models: dict[str, Callable[[], nn.Module]], *, imgsz: int = 640, batch: int = 1, seconds: float = 20.0,
    device: str = "cpu",
) -> list[dict[str, Any]]:  # fmt: skip
    """Whole models side by side: forward pass in eval mode, channels_last, float32; the first is the baseline.

    Args:
        models: Name -> function that builds it.
        imgsz: Side of the square image.
        batch: Images in a batch.
        seconds: Time for all of them together.
        device: Where to run.

    Returns:
        One record for each model: time, ratio to the first, parameters.
    """
    x = torch.rand(batch, 3, imgsz, imgsz, device=device).to(memory_format=torch.channels_last)
    built = {name: _place(build().eval(), device) for name, build in models.items()}
    with torch.inference_mode():
        times = interleave({name: partial(model, x) for name, model in built.items()}, seconds=seconds)
    base = next(iter(times.values())).median
    return [
        {
            "model": name,
            "ms": times[name].__dict__,
            "ratio": times[name].median / base,
            "parameters": sum(p.numel() for p in model.parameters()),
        }
        for name, model in built.items()
    ]


KINDS = ("pst", "textbook")


def one_call(kind: str, side: int, channels: int, topk: int, train: bool, *, warmup: bool = False) -> None:
    """What `peak_memory` runs; with ``warmup`` on a map of 8×8."""
    _step(*_build(kind, 8 if warmup else side, channels, topk, train, "cpu"), train=train)


def _build(kind: str, side: int, channels: int, topk: int, train: bool, device: str) -> tuple[Any, Tensor, Tensor]:
    torch.manual_seed(0)
    module = PyramidSparseAttention(channels, channels // 32, topk=topk).train(train)
    module = _place(module, device)
    maps = [torch.randn(1, channels, s, s, device=device).requires_grad_(train) for s in (side, side // 2)]
    x, upper = (m.detach().to(memory_format=torch.channels_last).requires_grad_(train) for m in maps)
    return module if kind == "pst" else partial(textbook_forward, module), x, upper


def _place(module: Any, device: str) -> Any:
    return module.to(device).to(memory_format=torch.channels_last)


def _step(forward: Callable[[Tensor, Tensor], Tensor], x: Tensor, upper: Tensor, *, train: bool) -> None:
    if train:
        forward(x, upper).sum().backward()
        return
    with torch.inference_mode():
        forward(x, upper)
