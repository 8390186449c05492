"""What a row costs: products, time on one core, and memory."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from lab.two_maps import frames, labels, plan, rivals
from lab.two_maps.attend import apply, attend
from lab.two_maps.frames import Pair
from lab.two_maps.networks import NETWORKS, Memory, as_batch, extractor, missing
from lab.two_maps.rows import ROWS, Row
from lab.two_maps.store import Store
from pst.profile.memory import added_memory
from pst.profile.timing import interleave

FILE = "cost.json"
PAIRS, FIRST = 3, "first"
Way = Callable[[Row, Tensor, Tensor, Tensor, float], Tensor]
CHANNELS = 176  # of the default network
MAP = (frames.SIZE[0] // labels.STRIDE, frames.SIZE[1] // labels.STRIDE)
WEIGHED = ("k0", "mean", "random-window-0", "nearest", "window-8", "all", "window-32", "query-8", "dense-2")


def run(camvid: Path, out: Path, *, seconds: float = 45) -> None:
    """Time every row of unit length, one after the other, round after round, on a few pairs; weigh the main ones.

    Args:
        camvid: Folder of CamVid.
        out: Folder of the result file.
        seconds: For the rounds of each network.
    """
    store = Store(out / FILE, {"task": "cost", "map": MAP, "pairs": PAIRS, "split": "val-1"})
    for network in NETWORKS:
        if missing(network) is None and store.lacks(f"time {network}", ROWS_TIMED):
            store.add(f"time {network}", _times(camvid, network, seconds))
    lacking = store.lacks("memory", WEIGHED)
    for name in lacking:
        store.add("memory", {name: round(added_memory(one_call, name), 1)})


ROWS_TIMED = tuple(name for name, row in ROWS.items() if row.unit)


def _times(camvid: Path, network: str, seconds: float) -> dict[str, object]:
    every = frames.pairs(camvid, "val", 1)
    picked = every[:: len(every) // PAIRS][:PAIRS]
    features = Memory(extractor(network), lambda name: frames.image(camvid, name))
    # the first of a round meets a cold cache, and is not kept
    cases: dict[str, Callable[[], object]] = {FIRST: _case(camvid, picked, features, ROWS["k0"], attend)}
    cases.update({name: _case(camvid, picked, features, ROWS[name], attend) for name in ROWS_TIMED})
    if network == plan.DEFAULT:
        shown = [(frames.image(camvid, p.second), frames.image(camvid, p.first)) for p in picked]
        turn = itertools.cycle(shown)
        cases["flow"] = lambda: rivals.flow(*next(turn))
    cases["all-plain"] = _case(camvid, picked, features, ROWS["all"], apply)  # two plain products
    extract, frame = extractor(network), as_batch(frames.image(camvid, picked[0].first))
    cases["features"] = lambda: extract(frame)
    with torch.inference_mode():
        timings = interleave(cases, seconds=seconds, min_runs=2 * PAIRS, warmup=1)
    return {
        name: {"ms": round(t.median, 1), "low": round(t.low, 1), "high": round(t.high, 1), "runs": t.runs}
        for name, t in timings.items()
        if name != FIRST
    }


def _case(camvid: Path, pairs: Sequence[Pair], features: Memory, row: Row, way: Way) -> Callable[[], Tensor]:
    turn = itertools.cycle(pairs)

    def case() -> Tensor:
        pair = next(turn)
        value = _value(camvid, pair.first)
        return way(row, features(pair.second), features(pair.first), value, 40.0)

    return case


@functools.lru_cache(maxsize=8)
def _value(camvid: Path, name: str) -> Tensor:
    return labels.one_hot(frames.mask(camvid, name))


def one_call(name: str, *, warmup: bool = False) -> None:
    """One call of a row on made features, as `pst.profile.memory.added_memory` wants it."""
    whole = _inputs(*MAP)  # made in the warm-up, so that they are not part of what the call adds
    query, key, value = _inputs(MAP[0] // 4, MAP[1] // 4) if warmup else whole
    with torch.inference_mode():
        attend(ROWS[name], query, key, value, 40.0)


@functools.cache
def _inputs(height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    query, key = (F.normalize(torch.randn(CHANNELS, height, width, generator=draw), dim=0) for _ in range(2))
    return query, key, torch.rand(frames.CLASSES + 1, height, width, generator=draw)
