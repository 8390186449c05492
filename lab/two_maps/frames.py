"""Frames and masks of CamVid, and the pairs of them that are a given time apart."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZE = (352, 480)  # height and width that frames and masks are resized to: multiples of 32
CLASSES = 11
SMALL = (2, 6, 9, 10)  # pole, sign_symbol, pedestrian, bicyclist
RATE = 30  # the numbers in the frames' names count thirtieths of a second


class Pair(NamedTuple):
    """Names of an annotated frame and of the later one that its labels are carried to."""

    first: str
    second: str


def pairs(root: Path, split: str, seconds: float, every: int = 1) -> list[Pair]:
    """Every pair of a split that is so far apart, in the order of the list of its frames.

    Args:
        root: Folder of CamVid: ``images``, ``masks`` and a list of names for each split.
        split: "train", "val" or "test".
        seconds: From the first frame to the second.
        every: Only each n-th pair.

    Raises:
        FileNotFoundError: There is no list of this split.
        ValueError: No two frames are so far apart.
    """
    path = root / f"{split}.txt"
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: give the folder of CamVid with --camvid")
    names = path.read_text(encoding="utf-8").split()
    known, found = set(names), []
    for name in names:
        later = _later(name, round(seconds * RATE))
        if later in known:
            found.append(Pair(name, later))
    if not found:
        raise ValueError(f"{path} has no two frames that are {seconds} s apart")
    return found[::every]


def drive(name: str) -> str:
    """The drive that a frame is of."""
    return name.rpartition("_")[0]


def number(name: str) -> int:
    """The frame's number in its drive."""
    return int(name.rpartition("_")[2].lstrip("f"))


def _later(name: str, step: int) -> str:
    stem, _, digits = name.rpartition("_")
    letter = "f" if digits.startswith("f") else ""
    return f"{stem}_{letter}{number(name) + step:0{len(digits) - len(letter)}d}"


def image(root: Path, name: str) -> NDArray[np.uint8]:
    """A frame, (352, 480, 3) RGB."""
    with Image.open(root / "images" / f"{name}.jpg") as file:
        return np.asarray(file.convert("RGB").resize((SIZE[1], SIZE[0]), Image.Resampling.BILINEAR))


def mask(root: Path, name: str) -> NDArray[np.uint8]:
    """Its classes, (352, 480); `CLASSES` and above is unlabelled."""
    with Image.open(root / "masks" / f"{name}.png") as file:
        return np.asarray(file.resize((SIZE[1], SIZE[0]), Image.Resampling.NEAREST))
