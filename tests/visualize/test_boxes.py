"""Boxes where they belong, in one colour for a class; and the message when Pillow is missing."""

import sys
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from pst.visualize import draw_boxes, selection_overlay
from pst.visualize.boxes import class_color

RGB_TO_XYZ = np.array([[0.4339, 0.3762, 0.1899], [0.2126, 0.7152, 0.0722], [0.0178, 0.1094, 0.8728]])  # white is 1


def black(width: int = 60, height: int = 50) -> Image.Image:
    return Image.new("RGB", (width, height))


def test_the_frame_is_drawn_on_the_boxs_own_edges():
    drawn = np.asarray(draw_boxes(black(), [(10, 30, 30, 45)], [""], [2], scale=2))
    assert drawn.shape == (100, 120, 3)
    frame = (drawn == class_color(2)).all(2)
    frame[:60] = False  # the tag above
    inside = frame[62:88, 22:58]
    ys, xs = np.nonzero(frame)
    assert (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) == (20, 60, 60, 90)
    assert not inside.any()


def test_a_class_has_one_colour_and_neighbours_differ():
    colors = [class_color(i) for i in range(20)]
    assert len(set(colors)) == 20
    assert all(np.abs(np.subtract(a, b)).sum() > 60 for a, b in pairwise(colors))
    assert class_color(3) == colors[3]


def test_black_text_is_legible_on_each_colour():
    brightness = linear([class_color(i) for i in range(256)]) @ RGB_TO_XYZ[1]
    assert (brightness.min() + 0.05) / 0.05 > 4.5  # the contrast that WCAG 2 asks for


@pytest.mark.parametrize(("classes", "least"), [(14, 20), (21, 14)])
def test_as_many_classes_are_told_apart(classes, least):
    x, y, z = (np.cbrt(part) for part in RGB_TO_XYZ @ linear([class_color(i) for i in range(classes)]).T)
    places = np.stack([116 * y, 500 * (x - y), 200 * (y - z)], 1)  # in CIELAB, where 2 can just be seen
    distances = np.linalg.norm(places[:, None] - places[None], axis=2) + 1e3 * np.eye(classes)
    assert distances.min() > least


def linear(colors: list[tuple[int, int, int]]) -> np.ndarray:
    """(n, 3) shares of light of sRGB values."""
    shares = np.asarray(colors) / 255
    return np.where(shares > 0.04045, ((shares + 0.055) / 1.055) ** 2.4, shares / 12.92)


def test_the_tag_stays_in_the_picture_at_the_upper_edge():
    drawn = np.asarray(draw_boxes(black(), [(0, 0, 20, 20)], ["7"], [0], scale=1))
    below = drawn[20:36, :10]
    assert (below == class_color(0)).all(2).any()
    assert (below.sum(2) < 200).any()  # the letter


def test_the_tag_stays_whole_at_the_right_edge():
    def letters(left: float) -> int:
        white = Image.new("RGB", (200, 50), "white")
        drawn = np.asarray(draw_boxes(white, [(left, 30, left + 8, 45)], ["seven 0.93"], [0], scale=1))
        return int((drawn.max(2) < 100).sum())

    assert letters(191) == letters(20) > 50


def test_no_box_leaves_the_picture_as_it_is():
    assert not np.asarray(draw_boxes(black(), [], [], [])).any()


def test_numbers_must_agree():
    with pytest.raises(ValueError, match="got 1 boxes, 2 labels and 1 classes: give one of each"):
        draw_boxes(black(), [(0, 0, 1, 1)], ["a", "b"], [0])


def test_missing_pillow_is_named_with_the_command_that_installs_it(monkeypatch):
    image = black()
    monkeypatch.setitem(sys.modules, "PIL", None)
    for draw in (lambda: draw_boxes(image, [], [], []), lambda: selection_overlay(image, None, 0)):  # type: ignore[arg-type]
        with pytest.raises(ImportError, match=r"pictures need Pillow: pip install .pyramid-sparse-transformer\[viz\]"):
            draw()


def test_a_label_with_a_line_break_stands_on_one_line():
    def drawn(label: str) -> np.ndarray:
        return np.asarray(draw_boxes(black(), [(5, 30, 30, 45)], [label], [0], scale=2))

    np.testing.assert_array_equal(drawn("a\nb"), drawn("a b"))


def test_the_tag_stays_whole_at_the_left_edge():
    def letters(left: float) -> int:
        white = Image.new("RGB", (200, 50), "white")
        drawn = np.asarray(draw_boxes(white, [(left, 30, left + 20, 45)], ["seven 0.93"], [0], scale=1))
        return int((drawn.max(2) < 100).sum())

    assert letters(-15) == letters(20) > 50
