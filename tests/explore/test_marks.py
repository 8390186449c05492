"""Clicks on the first picture become boxes and points."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pst.explore.marks import Marks, describe, hint


def test_two_clicks_are_a_box_whatever_their_order():
    marks = Marks()
    marks.click((0.5, 0.75), "box")
    assert marks.corner == (0.5, 0.75)
    assert marks.labels((40, 20)) is None
    marks.click((0.25, 0.25), "box")
    expected = np.zeros((20, 40), np.uint8)
    expected[5:15, 10:20] = 1
    np.testing.assert_array_equal(marks.labels((40, 20)), expected)
    marks.click((0.0, 0.0), "box")
    marks.click((0.1, 0.1), "box")
    labels = marks.labels((40, 20))
    assert labels is not None
    assert labels[0, 0] == 2


def test_one_place_is_no_box_and_the_first_corner_waits_on():
    marks = Marks()
    marks.click((0.5, 0.5), "box")
    with pytest.raises(ValueError, match="opposite corner"):
        marks.click((0.5, 0.501), "box")
    assert not marks.boxes
    marks.click((0.75, 1.0), "box")
    assert marks.boxes == [((0.5, 0.5), (0.75, 1.0))]


def test_the_next_click_is_said_after_each():
    marks = Marks()
    said = [hint(marks)]
    for place, kind in (((0.1, 0.1), "box"), ((0.5, 0.5), "box"), ((0.6, 0.6), "box"), ((0.7, 0.7), "point")):
        marks.click(place, kind)
        said.append(hint(marks))
    corner = "now click on the opposite corner of the box."
    assert said == ["click on it to mark what is to be carried.", corner, "", corner, ""]
    assert marks.corner is None  # a point gives the begun box up


def test_points_are_pixels():
    marks = Marks()
    marks.click((0.5, 0.25), "point")
    np.testing.assert_array_equal(marks.pixels((40, 20)), [[20, 5]])


def test_a_mask_comes_in_place_of_boxes():
    marks = Marks(boxes=[((0, 0), (1, 1))], mask=Image.fromarray(np.full((2, 3), 9, np.uint8)))
    assert (marks.labels((3, 2)) == 9).all()
    assert marks.key() != Marks(boxes=[((0, 0), (1, 1))]).key()
    assert describe(marks) == "a mask in place of 1 box"
    marks.boxes = []
    assert describe(marks) == "a mask"
