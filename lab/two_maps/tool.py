"""The tool as users get it: `pst.propagate.Propagator` with its defaults, from one frame to a later one."""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from lab.two_maps import frames
from lab.two_maps.frames import CLASSES
from lab.two_maps.labels import counts, truth
from lab.two_maps.plan import STEP, setting
from lab.two_maps.store import Store
from pst.io.processes import end_with_parent
from pst.propagate import UNKNOWN, Features, Propagator, Setting, borders
from pst.propagate.carry import WAVES
from pst.propagate.network import Network

FILE = "tool.json"
THRESHOLDS = (0.3, 0.5, 0.7, 0.9)


class Part(NamedTuple):
    """The pairs of one split, so many seconds apart, each n-th."""

    split: str
    seconds: float
    every: int = 1


PARTS = (Part("val", STEP), Part("val", 1), Part("test", 1), Part("val", 5))


def run(
    camvid: Path,
    out: Path,
    *,
    every: int = 1,
    parts: Sequence[Part] = PARTS,
    jobs: int = 1,
    network: Network | None = None,
) -> None:
    """Evaluate the pairs that have no result yet.

    Args:
        camvid: Folder of CamVid.
        out: Folder of the result files.
        every: Of each part's pairs only each n-th.
        parts: Which pairs.
        jobs: Pairs at a time, each in a process of its own with one thread.
        network: What frames are matched by; None is the default.
    """
    network = Network() if network is None else network
    store = Store(out / FILE, settings(network), whole=True)
    for part in parts:
        title = setting(part.split, part.seconds)
        named = {f"{title} {p.first} {p.second}": p for p in frames.pairs(camvid, *part[:2], part.every * every)}
        missing = {name: pair for name, pair in named.items() if store.lacks(name, ["tool"])}
        work = functools.partial(_evaluate, camvid, network)
        found = tqdm(
            _in_order(work, missing) if jobs == 1 else _in_processes(work, missing, jobs),
            f"tool {title}",
            total=len(named),
            initial=len(named) - len(missing),
            unit="pair",
        )
        for name, record in found:
            store.add(name, record)


def settings(network: Network) -> dict[str, Any]:
    """All that the records are made with: a record made with anything else is not taken for one of these."""
    constants = {name: getattr(borders, name) for name in ("REACH", "SMOOTH", "MEDIAN", "AGREEING", "MOVED")}
    step = {"waves": WAVES, "borders": {name.lower(): value for name, value in constants.items()}}
    described = {name: value for name, value in network.describe().items() if name != "device"}
    return {"task": "tool", "size of frames": list(frames.SIZE), **asdict(Setting()), **step, **described}


def _in_order(work: Any, pairs: dict[str, frames.Pair]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from ((name, work(pair)) for name, pair in pairs.items())


def _in_processes(work: Any, pairs: dict[str, frames.Pair], jobs: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """As they are ready; where this is given up, those that have not begun are dropped."""
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_start)
    try:
        names = {pool.submit(work, pair): name for name, pair in pairs.items()}
        yield from ((names[future], future.result()) for future in as_completed(names))
    finally:
        pool.shutdown(cancel_futures=True)


def _start() -> None:
    end_with_parent()
    torch.set_num_threads(1)


def _evaluate(camvid: Path, network: Network, pair: frames.Pair) -> dict[str, Any]:
    return evaluate(camvid, pair, network.build())


def evaluate(root: Path, pair: frames.Pair, features: Features) -> dict[str, Any]:
    """Counts of one pair: of every pixel, and of those alone whose confidence reaches each of `THRESHOLDS`."""
    old, true = frames.mask(root, pair.first), frames.mask(root, pair.second)
    propagator = Propagator(features)
    propagator.add(frames.image(root, pair.first), np.where(old < CLASSES, old, UNKNOWN))
    given = propagator.step(frames.image(root, pair.second))
    return {"true": truth(true), "tool": counts(given, true), **known(given, true, propagator.confidence)}


def known(given: NDArray[np.uint8], true: NDArray[np.uint8], confidence: NDArray[np.float32]) -> dict[str, list[int]]:
    """Counts of the pixels that are sure enough, and behind them the pixels of each true class among these."""
    sure = {t: confidence >= t for t in THRESHOLDS}
    return {f"sure-{t}": [*counts(given[at], true[at]), *truth(true[at])] for t, at in sure.items()}
