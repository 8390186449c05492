"""Section of the GPU benchmark on blocks of queries that pick tokens of their own, in another frame."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

import torch

from lab.bench import interleave
from lab.bench.blocks import COARSE, FINE, GRID, ROWS, WIDTH, call
from lab.bench.gpu.correctness import BUDGET, Save, attempt, implementations
from pst.functional import _blocks, _fused
from pst.profile.memory import added_memory_cuda

WINDOW = "window k = 8"
AT_WORK = (2**20, 2**22, 2**24)  # in place of `_blocks.AT_WORK`
# Ratio -> at most; memory with the maps, as on the CPU.
WANTED = {"time to all fine": 0.25, "time to k = 0": 3.0, "memory to k = 0": 2.0}


def window(device: str, quick: bool, save: Save) -> None:
    """k = 0, "window" with k = 8 and all fine tokens, "refine": time, memory and what was wanted, each implementation.

    With "fused" also other ways of the window: blocks in larger or smaller parts, and coarse tokens copied for each
    block, as in training and in CUDA graphs.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    for dtype in list(BUDGET)[: 1 if quick else None]:
        for impl in implementations(device)[1:]:
            record = {"dtype": str(dtype), "impl": impl, "fine": FINE, "coarse": COARSE, "width": WIDTH, "grid": GRID}
            save(record | attempt(partial(_window, device, dtype, impl, quick)))


def _window(device: str, dtype: torch.dtype, impl: str, quick: bool) -> dict[str, Any]:
    calls = {name: call(k, device=device, dtype=dtype, impl=impl) for name, k in ROWS.items()}
    if impl == "fused":
        calls |= {f"{WINDOW}, {n:,} at work": partial(_at_work, device, n, calls[WINDOW]) for n in AT_WORK}
        calls[f"{WINDOW}, coarse tokens copied"] = partial(_copied, calls[WINDOW])
    times = interleave(calls, seconds=0 if quick else 2.5, min_runs=2 if quick else 5, warmup=0 if quick else 2)
    rows: dict[str, dict[str, Any]] = {name: {"ms": t.__dict__} for name, t in times.items()}
    if device != "cpu":
        numbers = 3 * FINE[0] * FINE[1] + 2 * COARSE[0] * COARSE[1]
        maps = numbers * WIDTH * torch.finfo(dtype).bits / 8e6
        for name, run in calls.items():
            added = added_memory_cuda(run)
            rows[name] |= {"gpu_ms": gpu_ms(run), "added_mb": added, "mb": maps + added}
    return {"rows": rows, "wanted": {name: _judged(name, rows) for name in WANTED}}


def _judged(name: str, rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """One of `WANTED`: the ratio, and whether it is met; None where memory is not measured."""
    what, _, base = name.partition(" to ")
    ours, theirs = rows[WINDOW], rows[base]
    if what == "memory":
        ratio = ours["mb"] / theirs["mb"] if "mb" in ours else None
    else:
        ratio = ours["ms"]["median"] / theirs["ms"]["median"]
    return {"at most": WANTED[name], "ratio": ratio, "met": None if ratio is None else ratio <= WANTED[name]}


def _at_work(device: str, numbers: int, run: Callable[[], object]) -> object:
    with patch.dict(_blocks.AT_WORK, {device.partition(":")[0]: numbers}):
        return run()


def _copied(run: Callable[[], object]) -> object:
    with patch.object(_fused, "applies", lambda *_: False):
        return run()


def gpu_ms(run: Callable[[], object]) -> float:
    """Milliseconds that the GPU works in one call, without what it waits for."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        run()
        torch.cuda.synchronize()
    return sum(event.self_device_time_total for event in profiler.key_averages()) / 1e3
