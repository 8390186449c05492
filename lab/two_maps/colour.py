"""The fourth task: the colours of one frame carried to a later one that is seen in grey alone.

Features of both frames are those of their grey pictures. Errors are at the maps' own size, a quarter of the frame's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from lab.two_maps import frames, plan, rivals, scales
from lab.two_maps.attend import apply
from lab.two_maps.labels import STRIDE
from lab.two_maps.networks import Memory, extractor
from lab.two_maps.rows import RIVALS, Row, of
from lab.two_maps.store import Store

FILE = "colour.json"
EVERY = 4
KINDS = {"rgb": slice(0, 3), "ab": slice(3, 5), "blurred": slice(5, 8)}
SIGMA = 16.0  # pixels that "blurred" is blurred by: about a coarse cell


def grey(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3) RGB -> the same without colour."""
    return np.repeat(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)[..., None], 3, 2).astype(np.uint8)


def colours(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(H, W, 3) RGB -> (H, W, 8): RGB from 0 to 1, a and b of CIELAB over 255, RGB after a blur."""
    rgb = frame.astype(np.float32) / 255
    ab = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB)[..., 1:] / 255
    return np.concatenate([rgb, ab, cv2.GaussianBlur(rgb, (0, 0), SIGMA)], 2, dtype=np.float32)


def small(values: NDArray[np.float32]) -> Tensor:
    """(H, W, K) -> (K, H/4, W/4), means."""
    return F.avg_pool2d(torch.from_numpy(np.ascontiguousarray(values)).permute(2, 0, 1), STRIDE)


def errors(given: Tensor, true: Tensor) -> list[float]:
    """Mean squared error of each of `KINDS`."""
    return [round(float((given[part] - true[part]).square().mean()), 8) for part in KINDS.values()]


def evaluate(
    root: Path, pair: frames.Pair, rows: Mapping[str, Row | str], features: Callable[[str], Tensor], scale: float
) -> dict[str, Any]:
    """Errors of one pair for each of some rows, as in `lab.two_maps.labels.evaluate`."""
    old, new = frames.image(root, pair.first), frames.image(root, pair.second)
    before, true = colours(old), small(colours(new))
    out: dict[str, Any] = {}
    for name, row in rows.items():
        if isinstance(row, Row):
            given = apply(row, features(pair.second), features(pair.first), small(before), scale)
        elif name == "copy":
            given = small(before)
        else:
            x, y = rivals.places(rivals.flow(new, old))
            layers = np.moveaxis(before, 2, 0)
            moved = [cv2.remap(one, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for one in layers]
            given = small(np.stack(moved, 2, dtype=np.float32))
        out[name] = errors(given, true)
    return out


def run(camvid: Path, out: Path, *, every: int = 1) -> None:
    """Evaluate every row on each fourth pair of val; what the result file holds already is not run again."""
    scale = scales.choose(camvid, out)[plan.DEFAULT]
    rows: dict[str, Row | str] = {**RIVALS, **of("main")}
    settings = {"task": "colour", "network": plan.DEFAULT, "size": list(frames.SIZE), "scale": scale, "sigma": SIGMA}
    store = Store(out / FILE, settings)
    memory = Memory(extractor(plan.DEFAULT), lambda name: grey(frames.image(camvid, name)))
    for pair in tqdm(frames.pairs(camvid, "val", 1, EVERY * every), desc="colour", unit="pair", mininterval=2):
        record = f"{plan.setting('val', 1)} {pair.first} {pair.second}"
        lacking = store.lacks(record, rows)
        if lacking:
            with torch.inference_mode():
                store.add(record, evaluate(camvid, pair, {n: rows[n] for n in lacking}, memory, scale))
    store.finished("val-1", EVERY * every)
