"""Warps whose truth is known: photos seen through a random homography."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def random_homography(rng: np.random.Generator, height: int, width: int) -> Matrix:
    """A turn up to 20°, a size from 0.8 to 1.25, some perspective, and a shift by a quarter to 0.4 of the width.

    Returns:
        (3, 3), from pixels (x, y) of the photo to those of its warped view.
    """
    angle, size = math.radians(rng.uniform(-20, 20)), math.exp(rng.uniform(-math.log(1.25), math.log(1.25)))
    length, direction = rng.uniform(0.25, 0.4) * width, rng.uniform(0, 2 * math.pi)
    bend = rng.uniform(-0.3, 0.3, 2) / (width, height)
    cos, sin = size * math.cos(angle), size * math.sin(angle)
    centre = translation(-width / 2, -height / 2)
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [*bend, 1]])
    back = translation(width / 2 + length * math.cos(direction), height / 2 + length * math.sin(direction))
    return back @ turn @ centre


def translation(x: float, y: float) -> Matrix:
    """(3, 3) shift by so many pixels."""
    return np.array([[1.0, 0, x], [0, 1, y], [0, 0, 1]])


def warp(photo: NDArray[np.uint8], homography: Matrix) -> NDArray[np.uint8]:
    """The view of a photo, of its size; grey where it ends."""
    height, width = photo.shape[:2]
    return np.asarray(cv2.warpPerspective(photo, homography, (width, height), borderValue=(124, 116, 104)), np.uint8)


def centres(height: int, width: int, stride: int) -> NDArray[np.float64]:
    """(2, height, width): x and y, in pixels, of the positions of a map; the middle of the first pixel is 0."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y]) * float(stride) + (stride - 1) / 2


def truth(homography: Matrix, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2, …) places in the photo of points (2, …) of the view."""
    whole = np.concatenate([points, np.ones_like(points[:1])])
    x, y, w = np.tensordot(np.linalg.inv(homography), whole, 1)
    return np.stack([x, y]) / w


def visible(places: NDArray[np.float64], height: int, width: int) -> NDArray[np.bool_]:
    """Which places (2, …) lie inside the photo."""
    x, y = places
    return (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)
