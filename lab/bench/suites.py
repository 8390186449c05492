"""The benchmarks: which cases are run against which, and what is recorded of each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from lab.bench.cases import KINDS, Case, one_call
from lab.bench.roofline import Roofline
from pst.profile.memory import added_memory, added_memory_cuda
from pst.profile.timing import Timing, interleave


def run_cases(
    cases: Sequence[Case],
    *,
    roofline: Roofline,
    seconds: float = 5.0,
    min_runs: int = 5,
    memory: Callable[[Case], bool] = lambda _: True,
) -> list[dict[str, Any]]:
    """Each case against the textbook's, the two in turn.

    Args:
        cases: What to run; all on the roofline's device.
        roofline: That device's peaks.
        seconds: Time for each comparison.
        min_runs: Rounds of each at least.
        memory: Whether to measure a case's peak memory: on a CPU two processes of its own (Linux only).

    Returns:
        One record for each case: times and, where measured, peak memory of both; ``speedup`` (textbook's median over
        ours); ``least_ms``, the least time its operations take at the roofline's peaks; ``share`` = least_ms over our
        median; for the attention in eval mode the same of the bare op (``op_ms``, ``op_share``).
    """
    return [_run_case(case, roofline, seconds, min_runs, memory(case)) for case in cases]


def run_models(
    models: dict[str, Callable[[], nn.Module]], *, imgsz: int = 640, batch: int = 1, seconds: float = 20.0,
    device: str = "cpu", dtype: torch.dtype = torch.float32,
) -> list[dict[str, Any]]:  # fmt: skip
    """Whole models side by side: forward pass in eval mode, channels_last; the first is the baseline.

    Args:
        models: Name -> function that builds it.
        imgsz: Side of the square image.
        batch: Images in a batch.
        seconds: Time for all of them together.
        device: Where to run.
        dtype: Of weights and images.

    Returns:
        One record for each model: time, ratio to the first, parameters.
    """
    x = torch.rand(batch, 3, imgsz, imgsz).to(device, dtype, memory_format=torch.channels_last)
    built = {
        name: build().eval().to(device, dtype).to(memory_format=torch.channels_last) for name, build in models.items()
    }
    with torch.inference_mode():
        times = interleave({name: partial(model, x) for name, model in built.items()}, seconds=seconds)
    return [
        record | {"parameters": sum(p.numel() for p in built[record["name"]].parameters())}
        for record in ratio_records(times)
    ]


def ratio_records(times: dict[str, Timing]) -> list[dict[str, Any]]:
    """One record for each timing: name, times, ratio of its median to the first's."""
    base = next(iter(times.values())).median
    return [{"name": name, "ms": t.__dict__, "ratio": t.median / base} for name, t in times.items()]


def _run_case(case: Case, roofline: Roofline, seconds: float, min_runs: int, memory: bool) -> dict[str, Any]:
    calls = {kind: case.call(kind) for kind in KINDS}
    bare = case.layer == "attention" and not case.train
    times = interleave(calls | ({"op": case.op()} if bare else {}), seconds=seconds, min_runs=min_runs)
    work = case.work()
    least = roofline.least_ms(work)
    record: dict[str, Any] = {
        "layer": case.layer, "train": case.train, "batch": case.batch, "n": case.side**2, "channels": case.channels,
        "topk": case.topk, **{f"{kind}_ms": t.__dict__ for kind, t in times.items()},
        "speedup": times["textbook"].median / times["pst"].median, "gflops": work.flops / 1e9,
        "gexp": work.exponentials / 1e9, "least_ms": least, "share": least / times["pst"].median,
    }  # fmt: skip
    if bare:
        record["op_share"] = roofline.least_ms(case.op_work()) / times["op"].median
    if memory:
        record |= {f"{kind}_mb": mb for kind, mb in _memory(case, calls).items()}
    return record


def _memory(case: Case, calls: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Peak memory of both kinds in 10⁶ bytes; nothing on a CPU whose system does not tell it."""
    if case.device != "cpu":
        return {kind: added_memory_cuda(call) for kind, call in calls.items()}
    if sys.platform != "linux":
        return {}
    return {kind: added_memory(one_call, kind, case, threads=torch.get_num_threads()) for kind in KINDS}
