"""Compose one detection scene of handwritten digits on a photo."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Array = NDArray[np.float32]

# larger edges of the glyphs in pixels of a 256 px image: (fewest, most, smallest, largest)
_LARGE = (0, 2, 72, 140)
_MEDIUM = (3, 5, 28, 72)
_SMALL = (2, 5, 12, 26)
_CLUSTER_SHARE = 0.5
_TRIES = 40
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


class Box(NamedTuple):
    """Class and pixel edges of one digit; right and bottom are exclusive."""

    label: int
    left: int
    top: int
    right: int
    bottom: int

    def line(self, size: int) -> str:
        """Label line of Ultralytics: class, centre x y, width, height as shares of the image's edge ``size``."""
        x, y = (self.left + self.right) / 2, (self.top + self.bottom) / 2
        width, height = self.right - self.left, self.bottom - self.top
        return f"{self.label} {x / size:.6f} {y / size:.6f} {width / size:.6f} {height / size:.6f}\n"


def scene(
    rng: Generator, photo: NDArray[np.uint8], scans: Array, labels: NDArray[np.int64], size: int
) -> tuple[NDArray[np.uint8], list[Box]]:
    """Draw digits of widely different sizes on a crop of ``photo``.

    Args:
        rng: The only source of randomness.
        photo: (h, w, 3) background to crop from.
        scans: (n, 8, 8) in [0, 1], ink is 1.
        labels: (n,) class of each scan.
        size: Edge of the square scene in pixels.

    Returns:
        (size, size, 3) image, and the boxes of its digits, no two of which overlap.
    """
    canvas = background(rng, photo, size)
    boxes: list[Box] = []
    for extent, center in _plan(rng, size):
        pick = int(rng.integers(len(scans)))
        mask = glyph(scans[pick], extent)
        corner = _free_corner(rng, mask.shape, boxes, size, center)
        if corner is None:
            continue
        paint(rng, canvas, mask, *corner)
        left, top = corner
        boxes.append(Box(int(labels[pick]), left, top, left + mask.shape[1], top + mask.shape[0]))
    return np.rint(canvas * 255).astype(np.uint8), boxes


def background(rng: Generator, photo: NDArray[np.uint8], size: int) -> Array:
    """Random square crop of ``photo``, mirrored at random, resized to (size, size, 3) in [0, 1]."""
    limit = min(photo.shape[:2])
    side = int(rng.integers(limit * 3 // 5, limit + 1))
    top, left = (int(rng.integers(extent - side + 1)) for extent in photo.shape[:2])
    crop = photo[top : top + side, left : left + side]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    image = Image.fromarray(np.ascontiguousarray(crop)).resize((size, size), Image.Resampling.BICUBIC)
    return (np.asarray(image) / 255).astype(np.float32)


def glyph(scan: Array, extent: int) -> Array:
    """Opacity (h, w) of a scan's ink, enlarged smoothly to max(h, w) ≈ ``extent``; ink touches all four edges."""
    ink = _trim(scan, 0.2)
    scale = extent / max(ink.shape)
    # the margin holds the smooth falloff of the outermost ink, so enlarge with it and trim again
    padded = np.pad(ink, 1)
    target = (round(padded.shape[1] * scale), round(padded.shape[0] * scale))
    image = Image.fromarray(padded).resize(target, Image.Resampling.BICUBIC)
    opacity = np.clip((np.asarray(image, np.float32) - 0.26) / 0.3, 0, 1)
    return _trim(opacity, 0.5)


def paint(rng: Generator, canvas: Array, mask: Array, left: int, top: int) -> None:
    """Blend ink into ``canvas`` in place, dark on bright ground or bright on dark, over a faint opposite halo."""
    pad = min(max(2, mask.shape[0] // 8), 5)
    y0, x0 = max(0, top - pad), max(0, left - pad)
    region = canvas[y0 : top + mask.shape[0] + pad, x0 : left + mask.shape[1] + pad]
    opacity = np.zeros(region.shape[:2], np.float32)
    opacity[top - y0 : top - y0 + mask.shape[0], left - x0 : left - x0 + mask.shape[1]] = mask
    dark = float((region @ _LUMA).mean()) > 0.45
    blurred = Image.fromarray(opacity * 255).convert("L").filter(ImageFilter.GaussianBlur(pad / 2))
    halo = np.minimum(np.asarray(blurred, np.float32)[..., None] / 255 * 1.6, 1) * 0.55
    region += halo * ((1.0 if dark else 0.0) - region)
    region += opacity[..., None] * (_ink(rng, dark) - region)


def _ink(rng: Generator, dark: bool) -> Array:
    """A dark or a bright colour (3,) of any hue."""
    tint = rng.random(3, np.float32)
    tint = tint / tint.max()
    return tint * np.float32(rng.uniform(0.05, 0.3)) if dark else 1 - (1 - tint) * np.float32(rng.uniform(0.0, 0.45))


def _plan(rng: Generator, size: int) -> list[tuple[int, tuple[float, float] | None]]:
    """Glyph sizes, largest first, each with the centre (x, y) of its cluster or None."""
    cluster = (float(rng.uniform(0.2, 0.8) * size), float(rng.uniform(0.2, 0.8) * size))
    groups = [(_LARGE, None), (_MEDIUM, None)]
    groups.append((_SMALL, cluster if rng.random() < _CLUSTER_SHARE else None))
    plan = []
    for (fewest, most, smallest, largest), center in groups:
        for _ in range(int(rng.integers(fewest, most + 1))):
            extent = float(np.exp(rng.uniform(np.log(smallest), np.log(largest)))) * size / 256
            plan.append((max(6, round(extent)), center))
    return sorted(plan, key=lambda entry: -entry[0])


def _free_corner(
    rng: Generator, shape: tuple[int, ...], boxes: list[Box], size: int, center: tuple[float, float] | None
) -> tuple[int, int] | None:
    """(left, top) where a glyph of ``shape`` (h, w) overlaps no box, near ``center`` if given; None when crowded."""
    height, width = shape
    gap = max(1, height // 8)
    for _ in range(_TRIES):
        if center is None:
            left, top = int(rng.integers(size - width + 1)), int(rng.integers(size - height + 1))
        else:
            left, top = (int(c - height / 2 + rng.normal(0, 1.6 * height)) for c in center)
        inside = 0 <= left <= size - width and 0 <= top <= size - height
        if inside and not any(
            left < b.right + gap and b.left < left + width + gap and top < b.bottom + gap and b.top < top + height + gap
            for b in boxes
        ):
            return left, top
    return None


def _trim(opacity: Array, threshold: float) -> Array:
    """Crop to the rows and columns that reach ``threshold``."""
    ys, xs = np.nonzero(opacity >= threshold)
    return opacity[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
