"""Pictures of discs and squares with their boxes and masks: the data of the other examples, drawn, not downloaded."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

NAMES = ("disc", "square")
COLOURS = ((225, 90, 60), (70, 130, 230))
PALETTE = [0, 0, 0, 255, 225, 60, 60, 230, 130]  # of masks: ground, disc, square


class Picture(NamedTuple):
    """One picture.

    Attributes:
        pixels: (S, S, 3) uint8 RGB.
        boxes: (n, 4) float32, left, top, right, bottom in pixels.
        labels: (n,) int64, index into `NAMES`.
        mask: (S, S) uint8, 0 ground, 1 + label elsewhere.
    """

    pixels: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    mask: NDArray[np.uint8]


def draw(seed: int, size: int = 64) -> Picture:
    """A speckled ground with two shapes that do not touch, one on each side."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(60, 150, (size, size, 3), dtype=np.uint8)
    mask = np.zeros((size, size), np.uint8)
    boxes, labels = [], []
    for side in range(2):
        label, radius = int(rng.integers(2)), int(rng.integers(size // 10, size // 5))
        column = int(rng.integers(radius, size // 2 - radius)) + side * size // 2
        row = int(rng.integers(radius, size - radius))
        stamp(pixels, mask, label, (row, column), radius, rng)
        boxes.append((column - radius, row - radius, column + radius + 1, row + radius + 1))
        labels.append(label)
    return Picture(pixels, np.array(boxes, np.float32), np.array(labels), mask)


def stamp(
    pixels: NDArray[np.uint8],
    mask: NDArray[np.uint8],
    label: int,
    middle: tuple[int, int],
    radius: int,
    rng: np.random.Generator,
) -> None:
    """Draw one shape into a picture (H, W, 3) and its mask (H, W), in place."""
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]]
    down, right = y - middle[0], x - middle[1]
    inside = (np.hypot(down, right) if label == 0 else np.maximum(abs(down), abs(right))) <= radius
    speckles = rng.normal(0, 20, (int(inside.sum()), 3))
    pixels[inside] = np.clip(COLOURS[label] + speckles, 0, 255).astype(np.uint8)
    mask[inside] = 1 + label


def side_by_side(pictures: list[NDArray[np.uint8]], scale: int = 1) -> Image.Image:
    """Pictures of one size in a row, a white line between them."""
    line = np.full((pictures[0].shape[0], 2, 3), 255, np.uint8)
    row = np.hstack([part for picture in pictures for part in (picture, line)][:-1])
    return Image.fromarray(row).resize((row.shape[1] * scale, row.shape[0] * scale), Image.Resampling.NEAREST)
