"""Classes of pixels are painted in their colours, and the strip below names those that occur."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pst.visualize import name_classes, paint_classes
from pst.visualize.boxes import class_color

NAMES = ("sky", "road", "a rather long name of a class")


def mask_of(*counts):
    return np.repeat(np.arange(len(counts)), counts).astype(np.uint8).reshape(10, -1)


def colours_below(image, height):
    """Of the strip, in the order in which they begin from left to right, line by line."""
    strip = np.asarray(image)[height:]
    flat = [tuple(pixel) for pixel in strip[10::21].reshape(-1, 3).tolist()]
    return list(dict.fromkeys(pixel for pixel in flat if pixel in {class_color(i) for i in range(9)}))


def test_each_pixel_gets_the_colour_of_its_class():
    mask = mask_of(100, 200)
    painted = np.asarray(paint_classes(Image.new("RGB", (30, 10)), mask, opacity=1))
    assert {tuple(painted[mask == i].reshape(-1, 3)[0]) for i in (0, 1)} == {class_color(0), class_color(1)}


def test_the_strip_names_what_occurs_the_largest_first():
    mask = mask_of(100, 2000, 0)
    named = name_classes(Image.new("RGB", (210, 10)), mask, NAMES)
    assert named.size == (210, 10 + 21)
    assert colours_below(named, 10) == [class_color(1), class_color(0)]
    assert (np.asarray(named)[:10] == 0).all()


@pytest.mark.parametrize("width", [30, 120, 400])
def test_all_names_have_room(width):
    mask = np.zeros((10, width), np.uint8)
    mask[0, :4], mask[1, :3], mask[2, :2] = 1, 2, 5  # a class without a name
    named = name_classes(Image.new("RGB", (width, 10)), mask, NAMES)
    assert named.width >= width
    assert colours_below(named, 10) == [class_color(i) for i in (0, 1, 2, 5)]
