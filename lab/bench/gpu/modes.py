"""Sections of the GPU benchmark on ways to run: SDPA's back-ends, CUDA graphs, torch.compile."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lab.bench import interleave
from lab.bench.gpu.correctness import BUDGET, Save, attempt, relative
from pst.control import attention_layers
from pst.modules import PST

# Of a PST layer: bounded coarse tokens, and tokens of their own for blocks of queries.
EXTRAS: tuple[dict[str, Any], ...] = (
    {"topk": 0, "max_tokens": 49},
    {"topk": 8, "fusion": "refine", "max_tokens": 49},
    {"topk": 8, "fusion": "refine", "selection": "window"},
    {"topk": 8, "fusion": "gate", "selection": "window", "max_tokens": 49},
)


def backends(device: str, quick: bool, save: Save) -> None:
    """Which back-end of SDPA can do each call that PST makes, which one PyTorch takes, how fast each is."""
    choices = {
        "default": None, "flash": SDPBackend.FLASH_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION,
        "cudnn": SDPBackend.CUDNN_ATTENTION, "math": SDPBackend.MATH,
    }  # fmt: skip
    side = 20 if quick else 80
    for dtype, what, (name, backend) in itertools.product(BUDGET, ("coarse", "refine"), choices.items()):
        record = {"dtype": str(dtype), "call": what, "backend": name, "n": side**2}
        save(record | attempt(partial(_backend, device, dtype, what == "refine", side, backend), fails=False))


def _backend(device: str, dtype: torch.dtype, bias: bool, side: int, backend: Any) -> Any:
    n, m = side * side, side * side // 4
    query, key, value = (
        torch.randn(1, length, 2, 32).to(device, dtype).transpose(1, 2) for length in (n, *(2 * [m + 32 * bias]))
    )
    mask = torch.zeros(1, 2, 1, m + 32, device=device, dtype=dtype) if bias else None

    def call() -> Tensor:
        with sdpa_kernel(backend) if backend is not None else nullcontext(), torch.no_grad():
            return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)

    want = F.scaled_dot_product_attention(query.cpu().double(), key.cpu().double(), value.cpu().double())
    return {
        "error": relative(call(), want),
        "ms": interleave({"call": call}, seconds=0.3)["call"].__dict__,
        "kernels": _kernels(call) if device != "cpu" else [],
    }


def _kernels(call: Callable[[], object]) -> list[str]:
    """Names of the GPU kernels that a call starts, the longest first."""
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiler:
        call()
        torch.cuda.synchronize()
    events = sorted(profiler.key_averages(), key=lambda event: -event.device_time_total)
    return [event.key[:120] for event in events if event.device_time_total > 0][:3]


def graphs(device: str, quick: bool, save: Save) -> None:
    """The layer captured as a CUDA graph and replayed on other inputs: equal to eager; time of both."""
    if device == "cpu":
        raise ImportError("CUDA graphs need a CUDA device")
    plain = [{"topk": k, "fusion": fusion} for k, fusion in itertools.product((0, 8), ("gate", "refine"))]
    for dtype, options, impl in itertools.product(BUDGET, (*plain, *EXTRAS), ("fused", "triton")):
        record = {"dtype": str(dtype), **options, "impl": impl}
        save(record | attempt(partial(_graph, device, dtype, options, impl, 20 if quick else 40)))


def _graph(device: str, dtype: torch.dtype, options: dict[str, Any], impl: Any, side: int) -> Any:
    module, maps = _layer(device, dtype, options, side)
    for layer in attention_layers(module).values():
        layer.impl = impl
    with torch.no_grad():
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                module(*maps)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = module(*maps)
        for t in maps:
            t.copy_(torch.randn(t.shape))
        graph.replay()
        error = relative(out.clone(), module(*maps))
        times = interleave({"eager": lambda: module(*maps), "graph": graph.replay}, seconds=0.3)
    return {"error": error, "ok": error <= BUDGET[dtype], **{f"{n}_ms": t.__dict__ for n, t in times.items()}}


def compiled(device: str, quick: bool, save: Save) -> None:
    """`torch.compile` of the whole layer, no graph break, eval and training step: equal to eager; time of both."""
    evals = [(dtype, False, {"topk": k}, "default") for dtype, k in itertools.product(BUDGET, (0, 8))]
    steps = [(d, True, {"topk": k}, "default") for d, k in itertools.product((torch.float32, torch.bfloat16), (0, 8))]
    extras = [(torch.float32, train, options, "default") for train in (False, True) for options in EXTRAS[train:3]]
    replayed = [(torch.bfloat16, False, {"topk": 8}, "reduce-overhead")]
    for dtype, train, options, mode in [*extras, *evals, *replayed, *steps][: 1 if quick else None]:
        record = {"dtype": str(dtype), "train": train, **options, "mode": mode}
        save(record | attempt(partial(_compiled, device, dtype, train, options, mode, 20 if quick else 40)))


def _compiled(device: str, dtype: torch.dtype, train: bool, options: dict[str, Any], mode: str, side: int) -> Any:
    torch.compiler.reset()
    module, maps = _layer(device, dtype, options, side)
    module.train(train)
    fast = torch.compile(module, fullgraph=True, mode=mode)

    def run(call: Callable[..., Tensor]) -> Tensor:
        if not train:
            with torch.no_grad():
                return call(*maps)
        out = call(*maps)
        module.zero_grad()
        out.float().square().mean().backward()
        grads = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
        return torch.cat([out.detach().flatten(), *grads])

    error = relative(run(fast), run(module))
    times = interleave({"eager": lambda: run(module), "compiled": lambda: run(fast)}, seconds=0.3)
    record = {"error": error, **{f"{n}_ms": t.__dict__ for n, t in times.items()}}
    if (
        options["topk"] == 0 or dtype is torch.float32
    ):  # below, fused roundings may select another token: no bound follows
        record["ok"] = error <= (4 if train else 1) * BUDGET[dtype]
    return record


def _layer(
    device: str, dtype: torch.dtype, options: dict[str, Any], side: int
) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    module = PST(128, 128, 128, depth=2, **options).eval()
    x, upper = (
        torch.randn(4, 128, s, s).to(device, dtype, memory_format=torch.channels_last) for s in (side, side // 2)
    )
    return module.to(device, dtype).to(memory_format=torch.channels_last), (x, upper)
