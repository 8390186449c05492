"""The scale on the logits of each kind of features, chosen on five pairs of CamVid's training part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from lab.two_maps import frames, labels
from lab.two_maps.networks import NETWORKS, Memory, extractor, missing, raw_extractor
from lab.two_maps.resample import mean_iou
from lab.two_maps.rows import RAW_OF, ROWS
from lab.two_maps.store import Store

FILE = "scales.json"
CANDIDATES = (10.0, 20.0, 40.0, 80.0, 160.0)
PAIRS = 5
CHOSEN_WITH = "window-8"


def choose(camvid: Path, out: Path) -> dict[str, float]:
    """Mean IoU of `CHOSEN_WITH` at every scale, for each network and for raw features; what is known is not run again.

    Returns:
        The best scale by the name of the features.
    """
    store = Store(out / FILE, {"candidates": CANDIDATES, "pairs": PAIRS, "row": CHOSEN_WITH, "seconds": 1})
    every = frames.pairs(camvid, "train", 1)
    picked = every[:: len(every) // PAIRS][:PAIRS]
    kinds: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
        name: (lambda name=name: extractor(name)) for name in NETWORKS if missing(name) is None
    }
    kinds[RAW_OF] = raw_extractor
    for kind, make in kinds.items():
        if store.lacks(kind, ["miou"]):
            features = Memory(make(), lambda name: frames.image(camvid, name))
            store.add(kind, {"miou": [_miou(camvid, picked, features, scale, kind) for scale in tqdm(CANDIDATES)]})
    return {kind: best(store.records[kind]["miou"]) for kind in store.records}


def best(figures: Sequence[float]) -> float:
    """The candidate of the highest figure."""
    return CANDIDATES[max(range(len(figures)), key=figures.__getitem__)]


def _miou(
    camvid: Path, pairs: Sequence[frames.Pair], features: Callable[[str], Tensor], scale: float, kind: str
) -> float:
    row = ROWS["dot" if kind == RAW_OF else CHOSEN_WITH]
    both = {True: features, False: features}
    found = [labels.evaluate(camvid, p, {"row": row}, both, {True: scale, False: scale}) for p in pairs]
    return round(float(mean_iou([r["true"] for r in found], [r["row"] for r in found])[0]), 4)
