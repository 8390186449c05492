"""The first task: labels of one frame carried to a later one, judged by the later frame's own labels.

What is kept of a pair and a row is, for each class, how many labelled pixels of the later frame it was given to
rightly, and how many it was given to: with the true ones that is all that intersection over union needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lab.two_maps import frames, rivals
from lab.two_maps.attend import apply
from lab.two_maps.frames import CLASSES, SIZE, Pair
from lab.two_maps.rows import RIVALS, Row

STRIDE = 4  # of the maps that labels are carried on


def one_hot(mask: NDArray[np.uint8]) -> Tensor:
    """Share of each class, the unlabelled last, at each position of the map: (12, H/4, W/4)."""
    classes = torch.from_numpy(np.minimum(mask, CLASSES).astype(np.int64))
    return F.avg_pool2d(F.one_hot(classes, CLASSES + 1).permute(2, 0, 1).float(), STRIDE)


def best(scores: Tensor) -> NDArray[np.uint8]:
    """The best class of each pixel, (352, 480), from scores (12, H, W); never the unlabelled."""
    resized = F.interpolate(scores[None], SIZE, mode="bilinear", align_corners=False)[0, :CLASSES]
    return resized.argmax(0).to(torch.uint8).numpy()


def counts(given: NDArray[np.uint8], true: NDArray[np.uint8]) -> list[int]:
    """Pixels rightly given to each class, then pixels given to it; where the truth is unlabelled none counts.

    A pixel that a rival leaves unlabelled is a miss of its true class, and a false alarm of none.
    """
    given, true = given[true < CLASSES], true[true < CLASSES]
    right = np.bincount(true[given == true], minlength=CLASSES)[:CLASSES]
    found = np.bincount(given, minlength=CLASSES)[:CLASSES]
    return [*right.tolist(), *found.tolist()]


def truth(true: NDArray[np.uint8]) -> list[int]:
    """Pixels of each class."""
    return np.bincount(true[true < CLASSES], minlength=CLASSES)[:CLASSES].tolist()


def evaluate(
    root: Path,
    pair: Pair,
    rows: Mapping[str, Row | str],
    features: Mapping[bool, Callable[[str], Tensor]],
    scales: Mapping[bool, float],
) -> dict[str, Any]:
    """Counts of one pair for each of some rows, and the truth's.

    Args:
        root: Folder of CamVid.
        pair: Earlier and later frame.
        rows: `rows.ROWS` or `rows.RIVALS`, some of them.
        features: Of a frame's name: at unit length (True) and as they are (False).
        scales: Factor on the logits for both.
    """
    old, true = frames.mask(root, pair.first), frames.mask(root, pair.second)
    value = one_hot(old)
    out: dict[str, Any] = {"true": truth(true)}
    for name, row in rows.items():
        if isinstance(row, Row):
            query, key = features[row.unit](pair.second), features[row.unit](pair.first)
            given = best(apply(row, query, key, value, scales[row.unit]))
        elif name == "copy":
            given = old
        else:
            given = rivals.warped(old, rivals.flow(frames.image(root, pair.second), frames.image(root, pair.first)))
        out[name] = counts(given, true)
    return out


assert set(RIVALS) == {"copy", "flow"}
