"""Regions of a photo carried to another view of it, whose truth is known: what fine attention is for."""

from __future__ import annotations

import math
import time
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor

from pst.propagate import UNKNOWN, BackboneFeatures, carry
from pst.visualize.boxes import class_color

SIZE = (480, 320)  # width, height
REGIONS = 12
TURN, ZOOM, SHIFT = 8.0, 1.25, (0.08, -0.05)  # of the view: degrees, factor, shares of width and height
TILT = (2e-4, -1e-4)  # perspective
BLUR, PLACE, SMOOTH = 1.5, 0.3, 7  # of the regions: pixels; weight of place beside colour; pixels
ALL = 10**6
_STRENGTH = 0.55  # of the colours over the photo
_OUTSIDE = 200  # grey of what the photo does not show


class Row(NamedTuple):
    """One k.

    Attributes:
        name: "k = 8".
        right: Share of the view's pixels that got their own region.
        seconds: Of the attention.
        picture: The view with what was carried to it; what is wrong is black.
    """

    name: str
    right: float
    seconds: float
    picture: Image.Image


class TwoViews(NamedTuple):
    """The photo with its regions, the view with its true ones, and what was carried for each k."""

    photo: Image.Image
    truth: Image.Image
    rows: list[Row]


@torch.inference_mode()
def carry_regions() -> TwoViews:
    """Divide a photo of scikit-learn's into regions by colour, turn, shift and tilt it, and carry the regions over."""
    from sklearn.datasets import load_sample_image

    photo = Image.fromarray(load_sample_image("china.jpg")).resize(SIZE, Image.Resampling.LANCZOS)
    regions = divide(photo)
    view, truth = warp(photo, regions)
    network = BackboneFeatures()
    here, there = (network(_tensor(image))[0] for image in (view, photo))
    shares = F.one_hot(torch.from_numpy(regions).long(), REGIONS).permute(2, 0, 1)[None].float()
    values = F.interpolate(shares, there.shape[1:], mode="area")
    rows = []
    for name, k in (("k = 0", 0), ("k = 8", 8), ("all fine tokens", ALL)):
        begin = time.perf_counter()
        carried = carry(here, there[None], values, topk=k)
        seconds = time.perf_counter() - begin
        full = F.interpolate(carried[None], truth.shape, mode="bilinear", align_corners=False)[0]
        found = full.argmax(0).numpy().astype(np.uint8)
        seen = truth != UNKNOWN
        right = float((found == truth)[seen].mean())
        shown = paint(view, np.where(seen, found, UNKNOWN), wrong=seen & (found != truth))
        rows.append(Row(name, right, seconds, shown))
    return TwoViews(paint(photo, regions), paint(view, truth), rows)


def divide(photo: Image.Image) -> NDArray[np.uint8]:
    """(H, W) regions 0 to `REGIONS` − 1: pixels of like colour and place together."""
    from sklearn.cluster import KMeans

    pixels = np.asarray(photo.filter(ImageFilter.GaussianBlur(BLUR)), np.float64) / 255
    height, width = pixels.shape[:2]
    y, x = PLACE * np.mgrid[:height, :width] / max(height, width)
    what = np.concatenate([pixels, y[..., None], x[..., None]], 2).reshape(-1, 5)
    means: Any = KMeans(REGIONS, random_state=0, n_init="auto").fit(what[::16])
    regions = Image.fromarray(means.predict(what).reshape(height, width).astype(np.uint8))
    return np.array(regions.filter(ImageFilter.ModeFilter(SMOOTH)))


def warp(photo: Image.Image, regions: NDArray[np.uint8]) -> tuple[Image.Image, NDArray[np.uint8]]:
    """The photo from another side, and its regions, `UNKNOWN` where the view shows what the photo does not."""
    coefficients = homography(photo.size)
    labels = Image.fromarray(regions + 1).transform(
        photo.size, Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.NEAREST
    )
    view = photo.transform(photo.size, Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BICUBIC)
    truth = np.asarray(labels)
    return view, np.where(truth == 0, UNKNOWN, truth - 1).astype(np.uint8)


def homography(size: tuple[int, int]) -> list[float]:
    """Pillow's eight numbers, which lead from pixels of the view to those of the photo."""
    width, height = size
    angle = math.radians(TURN)
    centre = np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1]])
    cos, sin = math.cos(angle) / ZOOM, math.sin(angle) / ZOOM
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, 1, 0], [*TILT, 1]])
    back = np.array([[1, 0, width * (0.5 + SHIFT[0])], [0, 1, height * (0.5 + SHIFT[1])], [0, 0, 1]])
    whole = back @ tilt @ turn @ centre
    return [float(v) for v in (whole / whole[2, 2]).flatten()[:8]]


def paint(image: Image.Image, regions: NDArray[np.uint8], wrong: NDArray[np.bool_] | None = None) -> Image.Image:
    """The picture with its regions in colours over it; unknown pixels are grey, wrong ones black."""
    colors = np.zeros((256, 3), np.float64)
    for region in range(REGIONS):
        colors[region] = class_color(region)
    pixels = np.asarray(image, np.float64)
    mixed = pixels * (1 - _STRENGTH) + colors[regions] * _STRENGTH
    out = np.where((regions == UNKNOWN)[..., None], _OUTSIDE, mixed)
    if wrong is not None:
        out[wrong] = 0
    return Image.fromarray(out.round().astype(np.uint8))


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
