"""Triton kernel against SDPA on one CUDA GPU: errors, times of the whole operator, tile sizes, in `--seconds`.

    python lab/bench/gpu/kernel.py result.json

Prints a table and writes JSON. `graph` is the forward pass replayed as a CUDA graph (the GPU's time alone), `eager` the
forward pass as a script sees it, `train` forward and backward. Ratios above 1: Triton is faster.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import multiprocessing
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import torch
import triton
from torch import Tensor

from pst.functional import _triton, pyramid_sparse_attention
from pst.io.files import write_text
from pst.profile.environment import environment

Tile = tuple[int, int, int, int]
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
MODES = {"coarse": ("gate", 0), "gate8": ("gate", 8), "gate32": ("gate", 32), "refine8": ("refine", 8),
         "refine32": ("refine", 32)}  # fmt: skip
LAYOUTS = ((1, 2), (32, 8))  # images, heads
SIDES = (80, 40, 160)  # the most telling first, in case time runs out
TILES_SECONDS = 12  # kept for `tiles`
PASSES = (("forward", "coarse"), ("forward", "gate8"), ("query_gradient", "gate8"), ("key_gradient", "gate8"))
TOO_LARGE = (triton.runtime.errors.OutOfResources,)  # for the shared memory of this GPU
TILES = {  # queries, keys, warps, stages
    "fp16": ((64, 32, 4, 3), (64, 64, 4, 2), (64, 64, 4, 3), (64, 64, 8, 2), (64, 128, 4, 2), (128, 32, 4, 3),
             (128, 64, 4, 2), (128, 64, 4, 3), (128, 64, 4, 4), (128, 64, 8, 3), (128, 128, 8, 2), (256, 64, 8, 2)),
    "fp32": ((16, 64, 4, 2), (32, 32, 4, 2), (32, 64, 4, 2), (32, 64, 4, 3), (64, 16, 4, 2), (64, 32, 4, 2),
             (64, 32, 4, 3), (64, 32, 8, 2), (64, 64, 8, 2), (128, 32, 8, 2)),
}  # fmt: skip


def main() -> None:
    """Print and write what was measured; a section that fails leaves its error and the next one runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", help="JSON file to write")
    parser.add_argument("--seconds", type=float, default=85, help="sections begin no new case after this time")
    args = parser.parse_args()
    deadline = time.monotonic() + args.seconds
    record: dict[str, Any] = {"environment": environment()}
    record["compile_seconds"] = precompile()
    for name, section in (("errors", errors), ("operator", operator), ("tiles", tiles)):
        try:
            record[name] = list(section(deadline))
        except Exception:
            record[f"{name}_failed"] = traceback.format_exc()
            print(record[f"{name}_failed"])
        write_text(args.out, json.dumps(record, indent=1) + "\n")


def arguments(
    side: int, images: int, heads: int, dtype: torch.dtype, mode: str, *, grad: bool = False, d: int = 32
) -> dict[str, Any]:
    """Arguments of the operator as a PST layer gives them: slices of channels_last projections."""
    fusion, topk = MODES[mode]

    def maps(size: int, parts: int) -> tuple[Tensor, ...]:
        joined = torch.randn(images, size, size, heads, parts * d, device="cuda", dtype=dtype)
        return tuple(t.permute(0, 3, 1, 2, 4).requires_grad_(grad) for t in joined.split(d, -1))

    (query,), (key, value), fine = maps(side, 1), maps(side // 2, 2), maps(side, 2)
    gate = tuple((0.2 * torch.randn(s, device="cuda")).to(dtype).requires_grad_(grad) for s in ((d, 2 * d), (d,)))
    return {"query": query, "key": key, "value": value, "fine": fine, "gate": gate, "topk": topk, "fusion": fusion}


def leaves(kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors that get a gradient in this mode."""
    found = [kwargs[name] for name in ("query", "key", "value")]
    found += kwargs["fine"] if kwargs["topk"] else ()
    return found + list(kwargs["gate"] if kwargs["topk"] and kwargs["fusion"] == "gate" else ())


def step(kwargs: dict[str, Any], impl: Any, upstream: Tensor | None = None) -> Any:
    """One forward pass; with ``upstream`` also the backward pass."""
    out = pyramid_sparse_attention(**kwargs, impl=impl)
    return out if upstream is None else (out, *torch.autograd.grad(out, leaves(kwargs), upstream))


def precompile() -> float:
    """Fill Triton's cache with every kernel that is timed, in parallel; seconds it took."""
    begin = time.monotonic()
    cases = [(*case, None, None) for case in itertools.product(DTYPES, MODES)]
    cases += [(d, mode, kernel, tile) for d in TILES for tile in TILES[d] for kernel, mode in PASSES]
    with multiprocessing.get_context("spawn").Pool(14) as pool:
        pool.starmap(compile_case, cases, chunksize=1)
    return time.monotonic() - begin


def compile_case(dtype: str, mode: str, kernel: str | None, tile: Tile | None) -> None:
    """Run one small case, forward alone and with backward; with ``tile`` in place of that kernel's own."""
    with _tiled(dtype, kernel, tile), contextlib.suppress(*TOO_LARGE):
        for grad in (False, True):
            kwargs = arguments(40, 2, 2, DTYPES[dtype], mode, grad=grad)
            step(kwargs, "triton", torch.ones_like(kwargs["query"]) if grad else None)
    torch.cuda.synchronize()


def errors(deadline: float) -> Iterator[dict[str, Any]]:
    """Largest relative error (norms) of values and gradients against float64, for both implementations."""
    for dtype, mode in itertools.product(DTYPES, MODES):
        if time.monotonic() > deadline:
            return
        torch.manual_seed(0)
        kwargs = arguments(24, 2, 2, DTYPES[dtype], mode, grad=True)
        exact = {k: _double(v) for k, v in kwargs.items()}
        upstream = torch.randn_like(kwargs["query"])
        expected = step(exact, "reference", upstream.double())
        worst = {}
        for impl in ("fused", "triton"):
            pairs = zip(step(kwargs, impl, upstream), expected, strict=True)
            worst[impl] = max(((a.double() - e).norm() / e.norm()).item() for a, e in pairs)
        print(f"error {dtype} {mode:9} fused {worst['fused']:.1e} triton {worst['triton']:.1e}", flush=True)
        yield {"dtype": dtype, "mode": mode, **worst}


def _double(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_double(v) for v in value)
    return value.detach().double().requires_grad_() if isinstance(value, Tensor) else value


def operator(deadline: float) -> Iterator[dict[str, Any]]:
    """Milliseconds of the whole operator (selection and gathers included), fused and Triton in turn."""
    print(f"{'B':>3} {'N':>6} {'dtype':5} {'mode':9}" + "".join(f"{w:>24}" for w in ("graph", "eager", "train")))
    for side, (images, heads), dtype, mode in itertools.product(SIDES, LAYOUTS[::-1], DTYPES, MODES):
        if time.monotonic() > deadline - TILES_SECONDS:
            return
        if images > 1 and side == 160 and dtype == "fp32":
            continue  # half a second for each step
        case = (side, images, heads, DTYPES[dtype], mode)
        row = {"images": images, "heads": heads, "n": side * side, "dtype": dtype, "mode": mode}
        try:
            row |= {what: _compare(what, case) for what in ("graph", "eager", "train")}
        except torch.cuda.OutOfMemoryError as error:
            row["failed"] = str(error)
            torch.cuda.empty_cache()
        columns = (f"{t['fused']:>9.3f}{t['triton']:>8.3f}{t['fused'] / t['triton']:>6.2f}×" for t in _times(row))
        print(f"{images:>3} {side * side:>6} {dtype:5} {mode:9}" + "".join(columns), row.get("failed", ""), flush=True)
        yield row


def _times(row: dict[str, Any]) -> list[dict[str, float]]:
    return [row[what] for what in ("graph", "eager", "train") if what in row]


def _compare(what: str, case: tuple[Any, ...]) -> dict[str, float]:
    """Median milliseconds of both implementations, of one kind of pass."""
    kwargs = arguments(*case, grad=what == "train")
    upstream = torch.randn_like(kwargs["query"]) if what == "train" else None
    calls = {i: _bind(kwargs, i, upstream) for i in ("fused", "triton")}
    return alternate({i: _graph(call) for i, call in calls.items()} if what == "graph" else calls)


def tiles(deadline: float) -> Iterator[dict[str, Any]]:
    """Milliseconds of the whole operator, N = 6400, with each of `TILES` in place of one kernel's own."""
    for dtype, (images, heads), (kernel, mode) in itertools.product(TILES, LAYOUTS[::-1], PASSES):
        grad = kernel != "forward"
        kwargs = arguments(80, images, heads, DTYPES[dtype], mode, grad=grad)
        call = _bind(kwargs, "triton", torch.randn_like(kwargs["query"]) if grad else None)
        times: dict[str, float] = {}
        for tile in TILES[dtype]:
            if time.monotonic() > deadline:
                return
            with _tiled(dtype, kernel, tile), contextlib.suppress(*TOO_LARGE):
                times["-".join(map(str, tile))] = alternate({"": _graph(call, grad)}, seconds=0.03)[""]
        ranking = sorted(times.items(), key=lambda item: item[1])
        print(dtype, f"B={images}", kernel, mode, *(f"{t} {ms:.3f}" for t, ms in ranking[:6]), flush=True)
        yield {"dtype": dtype, "images": images, "heads": heads, "kernel": kernel, "mode": mode, "ms": times}


def _tiled(dtype: str, kernel: str | None, tile: Tile | None) -> Any:
    """Context in which one kernel has this tile."""
    own = {} if kernel is None or tile is None else {(kernel, dtype == "fp32"): (_triton.Launch(*tile),) * 4}
    return patch.dict(_triton.LAUNCHES, own)


def _bind(kwargs: dict[str, Any], impl: str, upstream: Tensor | None) -> Callable[[], object]:
    return lambda: step(kwargs, impl, upstream)


def _graph(call: Callable[[], object], grad: bool = False) -> Callable[[], object]:
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


def alternate(calls: dict[str, Callable[[], object]], seconds: float = 0.06) -> dict[str, float]:
    """Median milliseconds of each call, timed in turn by CUDA events; at least 3 and at most 30 rounds."""
    for call in calls.values():
        call()
    torch.cuda.synchronize()
    times: dict[str, list[float]] = {name: [] for name in calls}
    begin = time.monotonic()
    while len(next(iter(times.values()))) < 3 or (
        time.monotonic() - begin < seconds and len(next(iter(times.values()))) < 30
    ):
        for name, call in calls.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            torch.cuda.synchronize()
            times[name].append(start.elapsed_time(end))
    return {name: statistics.median(values) for name, values in times.items()}


if __name__ == "__main__":
    main()
