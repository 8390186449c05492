"""Attention of blocks of queries that pick tokens of their own: between two frames, as labels are carried."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from lab.bench.suites import ratio_records
from pst.functional import pyramid_sparse_attention
from pst.functional.selection import Window
from pst.profile.memory import added_memory
from pst.profile.timing import interleave

FINE, COARSE = (88, 120), (22, 30)  # CamVid at 480×352: maps of stride 4 and 16
WIDTH, GRID = 64, 24
ROWS = {"k = 0": 0, "window k = 8": 8, "all fine": FINE[0] * FINE[1]}


def run_blocks(*, seconds: float = 5.0, min_runs: int = 5) -> list[dict[str, Any]]:
    """k = 0, the rule "window" with k = 8, and all fine tokens, in turn; one head, ``refine``, forward, one thread.

    Returns:
        One record for each: name, times, ratio to k = 0, and on Linux the memory of one call, its maps included, in
        10⁶ bytes.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        times = interleave({name: call(k) for name, k in ROWS.items()}, seconds=seconds, min_runs=min_runs)
    finally:
        torch.set_num_threads(threads)
    records = ratio_records(times)
    if sys.platform == "linux":
        for record in records:
            record["mb"] = added_memory(once, ROWS[record["name"]], threads=1)
    return records


def call(
    k: int, *, device: str = "cpu", dtype: torch.dtype = torch.float32, impl: Any = "auto"
) -> Callable[[], object]:
    """A function that attends once with k tokens for each block."""
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(1, 1, *size, WIDTH, generator=generator) for size in (FINE, COARSE, COARSE, FINE, FINE)]
    query, key, value, fine_key, fine_value = (t.to(device, dtype) for t in maps)
    attend = partial(
        pyramid_sparse_attention, query, key, value, (fine_key, fine_value), topk=k, fusion="refine",
        selection=Window(GRID), impl=impl,
    )  # fmt: skip

    def without_gradients() -> object:
        with torch.inference_mode():
            return attend()

    return without_gradients


def once(k: int, *, warmup: bool = False) -> None:
    """What `added_memory` runs; the first call, of the same size, pays for the thread pool and the allocator."""
    del warmup
    call(k)()
