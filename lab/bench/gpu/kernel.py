"""Sections of the GPU benchmark on the Triton kernel: from which size on it is faster than SDPA, and its tile sizes."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from lab.bench import interleave
from lab.bench.gpu.correctness import Save, attempt
from pst.functional import pyramid_sparse_attention
from pst.functional._dispatch import FASTER

Tile = tuple[int, int, int, int]
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
MODES = {"coarse": ("gate", 0), "gate": ("gate", 8), "refine": ("refine", 8)}
# (side of the fine map, images, heads): 2²⁰, 2²², … 2³⁰ logits, of which the coarse map's side is half
LADDER = ((40, 1, 2), (40, 4, 2), (80, 1, 2), (80, 4, 2), (80, 16, 2), (160, 1, 2), (80, 64, 2), (160, 4, 2))
WORTH = 1.03  # times as fast, for Triton to be called faster
PASSES = (("forward", "coarse"), ("forward", "gate"), ("query_gradient", "gate"), ("key_gradient", "gate"))
TILES = {  # queries, keys, warps, stages
    "float16": ((64, 32, 4, 3), (64, 64, 4, 2), (64, 64, 4, 3), (64, 64, 8, 2), (64, 128, 4, 2), (128, 32, 4, 3),
                (128, 64, 4, 2), (128, 64, 4, 3), (128, 64, 4, 4), (128, 64, 8, 3), (128, 128, 8, 2), (256, 64, 8, 2)),
    "float32": ((16, 64, 4, 2), (32, 32, 4, 2), (32, 64, 4, 2), (32, 64, 4, 3), (64, 16, 4, 2), (64, 32, 4, 2),
                (64, 32, 4, 3), (64, 32, 8, 2), (64, 64, 8, 2), (128, 32, 8, 2)),
}  # fmt: skip


def dispatch(device: str, quick: bool, save: Save) -> None:
    """Fused against Triton from 2²⁰ to 2³⁰ logits: what `_dispatch.FASTER` should say, beside what it says.

    Milliseconds are of the whole operator as a script sees it, launches included, forward alone or with backward.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    impls = ("fused", "auto" if device == "cpu" else "triton")  # a CPU only tries the code
    if device != "cpu":
        _precompile([(dtype, mode, None, None) for dtype, mode in itertools.product(DTYPES, MODES)])
    ladder = ((8, 1, 2), (12, 1, 2)) if quick else LADDER
    for dtype, mode, train in itertools.product(list(DTYPES)[: 1 if quick else None], MODES, (False, True)):
        record = {"dtype": dtype, "mode": mode, "train": train}
        save(record | attempt(partial(_climb, device, ladder, dtype, mode, train, impls)))


def _climb(
    device: str, ladder: Sequence[tuple[int, int, int]], dtype: str, mode: str, train: bool, impls: Sequence[str]
) -> dict[str, Any]:
    """Both implementations on every rung; the least number of logits from which the second stays faster."""
    rungs = []
    for side, images, heads in ladder:
        kwargs = _arguments(device, side, images, heads, DTYPES[dtype], mode, grad=train)
        upstream = torch.randn_like(kwargs["query"]) if train else None
        calls = {impl: partial(_step, kwargs, impl, upstream) for impl in impls}
        times = interleave(calls, seconds=0.15, min_runs=5)
        first, second = (times[impl].median for impl in impls)
        rung: dict[str, Any] = {"logits": images * heads * side**4 // 4, "side": side, "images": images, "heads": heads}
        rungs.append(rung | {f"{impl}_ms": t.__dict__ for impl, t in times.items()} | {"speedup": first / second})
        del kwargs, upstream, calls
    table = {str(t).removeprefix("torch."): least for t, least in FASTER[mode, train].items()}
    return {"rungs": rungs, "least": _least(rungs), "table": table.get(dtype)}


def _least(rungs: Sequence[dict[str, Any]]) -> int | None:
    """The least number of logits such that Triton is faster there and on every later rung; None if on the last not."""
    least = None
    for rung in reversed(rungs):
        if rung["speedup"] < WORTH:
            break
        least = rung["logits"]
    return least


def tiles(device: str, quick: bool, save: Save) -> None:
    """Milliseconds of the whole operator, N = 6400, replayed as a CUDA graph, with each of `TILES` for one kernel."""
    if device == "cpu":
        raise ImportError("tile sizes are those of a GPU")
    chosen = {dtype: TILES[dtype][: 2 if quick else None] for dtype in TILES}
    _precompile([(d, mode, kernel, tile) for d in chosen for tile in chosen[d] for kernel, mode in PASSES])
    for dtype, (images, heads), (kernel, mode) in itertools.product(chosen, ((32, 8), (1, 2)), PASSES):
        record = {"dtype": dtype, "images": images, "heads": heads, "kernel": kernel, "mode": mode}
        save(record | attempt(partial(_tiles, device, images, heads, dtype, kernel, mode, chosen[dtype])))


def _tiles(
    device: str, images: int, heads: int, dtype: str, kernel: str, mode: str, chosen: Sequence[Tile]
) -> dict[str, Any]:
    grad = kernel != "forward"
    kwargs = _arguments(device, 80, images, heads, DTYPES[dtype], mode, grad=grad)
    call = partial(_step, kwargs, "triton", torch.randn_like(kwargs["query"]) if grad else None)
    replays = {}
    for tile in chosen:
        with _tiled(dtype, kernel, tile), contextlib.suppress(*_too_large()):
            replays["-".join(map(str, tile))] = _graph(call, grad)
    times = interleave(replays, seconds=0.5, min_runs=3)
    return {"ms": dict(sorted(((name, t.median) for name, t in times.items()), key=lambda item: item[1]))}


def _arguments(
    device: str, side: int, images: int, heads: int, dtype: torch.dtype, mode: str, *, grad: bool = False
) -> dict[str, Any]:
    """Arguments of the operator as a PST layer gives them: slices of channels_last projections."""
    (fusion, topk), d = MODES[mode], 32

    def maps(size: int, parts: int) -> tuple[Tensor, ...]:
        joined = torch.randn(images, size, size, heads, parts * d, device=device, dtype=dtype)
        return tuple(t.permute(0, 3, 1, 2, 4).requires_grad_(grad) for t in joined.split(d, -1))

    (query,), (key, value), fine = maps(side, 1), maps(side // 2, 2), maps(side, 2)
    gate = tuple((0.2 * torch.randn(s, device=device)).to(dtype).requires_grad_(grad) for s in ((d, 2 * d), (d,)))
    return {"query": query, "key": key, "value": value, "fine": fine, "gate": gate, "topk": topk, "fusion": fusion}


def _step(kwargs: dict[str, Any], impl: Any, upstream: Tensor | None = None) -> None:
    """One forward pass; with ``upstream`` also the backward pass."""
    out = pyramid_sparse_attention(**kwargs, impl=impl)
    if upstream is not None:
        torch.autograd.grad(out, _leaves(kwargs), upstream)


def _leaves(kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors that get a gradient in this mode."""
    found = [kwargs[name] for name in ("query", "key", "value")]
    found += kwargs["fine"] if kwargs["topk"] else ()
    return found + list(kwargs["gate"] if kwargs["topk"] and kwargs["fusion"] == "gate" else ())


def _precompile(cases: Sequence[tuple[str, str, str | None, Tile | None]]) -> None:
    """Fill Triton's cache with every kernel that is timed, in processes side by side."""
    with multiprocessing.get_context("spawn").Pool(min(14, os.cpu_count() or 1, len(cases))) as pool:
        pool.starmap(_compile, cases, chunksize=1)


def _compile(dtype: str, mode: str, kernel: str | None, tile: Tile | None) -> None:
    """Run one small case, forward alone and with backward; with ``tile`` in place of that kernel's own."""
    with _tiled(dtype, kernel, tile), contextlib.suppress(*_too_large()):
        for grad in (False, True):
            kwargs = _arguments("cuda", 40, 2, 2, DTYPES[dtype], mode, grad=grad)
            _step(kwargs, "triton", torch.ones_like(kwargs["query"]) if grad else None)
    torch.cuda.synchronize()


def _tiled(dtype: str, kernel: str | None, tile: Tile | None) -> Any:
    """Context in which one kernel has this tile."""
    from pst.functional import _triton

    own = {} if kernel is None or tile is None else {(kernel, dtype == "float32"): (_triton.Launch(*tile),) * 4}
    return patch.dict(_triton.LAUNCHES, own)


def _too_large() -> tuple[type[Exception], ...]:
    """What Triton raises for a tile that does not fit this GPU's shared memory."""
    from triton.runtime.errors import OutOfResources

    return (OutOfResources,)


def _graph(call: Callable[[], object], grad: bool) -> Callable[[], object]:
    """The same work as a CUDA graph."""
    with torch.set_grad_enabled(grad):
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            call()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
    return graph.replay
