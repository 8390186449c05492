"""The tool as users get it: `pst.propagate.Propagator` with its defaults, from one frame to a later one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lab.two_maps import frames
from lab.two_maps.frames import CLASSES
from lab.two_maps.labels import counts, truth
from lab.two_maps.plan import STEP, setting
from lab.two_maps.store import Store
from pst.propagate import UNKNOWN, BackboneFeatures, Features, Propagator, Setting

FILE = "tool.json"
THRESHOLDS = (0.3, 0.5, 0.7, 0.9)


class Part(NamedTuple):
    """The pairs of one split, so many seconds apart, each n-th."""

    split: str
    seconds: float
    every: int = 1


PARTS = (Part("val", STEP), Part("val", 1), Part("test", 1), Part("val", 5))


def run(camvid: Path, out: Path, *, every: int = 1, parts: Sequence[Part] = PARTS) -> None:
    """Evaluate the pairs that have no result yet.

    Args:
        camvid: Folder of CamVid.
        out: Folder of the result files.
        every: Of each part's pairs only each n-th.
        parts: Which pairs.
    """
    store = Store(out / FILE, {"task": "tool", "size": list(frames.SIZE), **asdict(Setting())})
    network: BackboneFeatures | None = None
    for part in parts:
        title = setting(part.split, part.seconds)
        for pair in tqdm(
            frames.pairs(camvid, part.split, part.seconds, part.every * every), f"tool {title}", unit="pair"
        ):
            record = f"{title} {pair.first} {pair.second}"
            if store.lacks(record, ["tool"]):
                network = BackboneFeatures() if network is None else network
                store.add(record, evaluate(camvid, pair, network))


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
