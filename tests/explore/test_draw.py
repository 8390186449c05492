"""Where cells, positions and marks lie on the picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from pst.explore.draw import beside, covered, draw_attention, draw_found, draw_tokens, heat, marked, position_of
from pst.explore.networks import NOTHING, Found, Seen


def seen(size=(640, 320), edge=640):
    return Seen(torch.zeros(3, edge, edge, dtype=torch.uint8), Image.new("RGB", (edge, edge), (90, 90, 90)), size)


@pytest.mark.parametrize(
    ("edge", "cells", "pixels"),
    [(640, 20, 640), (100, 4, 128), (100, 7, 112), (518, 37, 518), (224, 16, 224), (640, 25, 640), (64, 2, 64)],
)
def test_maps_cover_whole_cells(edge, cells, pixels):
    assert covered(edge, cells) == pixels


def test_a_place_is_at_the_position_whose_cell_it_is_in():
    assert position_of(seen(), (0.0, 0.0), (20, 20)) == (0, 0)
    assert position_of(seen(), (0.999, 0.999), (20, 20)) == (9, 19)  # the lower half is filled with grey
    assert position_of(seen(), (1.0, 1.0), (20, 20)) == (10, 19)
    assert position_of(seen((100, 100), 100), (0.99, 0.5), (4, 4)) == (1, 3)


def test_the_tokens_cells_are_painted_and_nothing_else():
    """Token 25 of 20×20 is row 1, column 5: pixels 160 to 192 and 32 to 64."""
    picture = np.asarray(draw_tokens(seen(), [25], (20, 20)))
    assert picture.shape == (320, 640, 3)
    painted = (picture != 90).any(2)
    expected = np.zeros((320, 640), bool)
    expected[32:64, 160:192] = True
    np.testing.assert_array_equal(painted, expected)


def test_the_first_token_is_the_strongest_pink():
    picture = np.asarray(draw_tokens(seen(), [25, 40, 0], (20, 20)), int)
    changed = [np.abs(picture[y, x] - 90).sum() for y, x in ((48, 176), (80, 16), (16, 16))]
    assert changed[0] > changed[1] > changed[2] > 0


def test_tokens_in_what_fills_the_square_are_counted():
    tokens = [0, 199, 200, 399]  # of 20 rows; the picture ends with row 9
    assert beside(seen(), tokens, (20, 20)) == 2
    assert beside(seen((640, 640)), tokens, (20, 20)) == 0


def test_no_token_leaves_the_picture_as_it_is():
    assert (np.asarray(draw_tokens(seen(), [], (20, 20))) == 90).all()


def test_the_most_attention_is_brightest():
    weights = torch.zeros(40, 40)
    weights[2, 30], weights[2, 10] = 0.8, 0.2
    picture = np.asarray(draw_attention(seen(), weights, (0.5, 0.9)), float).sum(2)
    assert picture[40, 488] > picture[40, 168] > picture[40, 320]
    assert picture[40, 320] < 90 * 3
    assert np.isfinite(np.asarray(heat(seen().square, torch.zeros(4, 4)))).all()


def test_boxes_and_classes_are_drawn_over_the_picture_alone():
    mask = np.full((640, 640), NOTHING, np.uint8)
    mask[:10, :10] = 3
    picture = np.asarray(draw_found(seen(), Found("", [(100, 100, 200, 200)], ["a"], [0], mask)))
    assert picture.shape == (320, 640, 3)
    assert (picture[5, 5] != 90).any()
    assert (picture[30, 30] == 90).all()
    assert (picture[100, 150] != 90).any()


def test_small_pictures_are_enlarged():
    assert draw_found(seen((64, 32), 64), Found("")).size == (640, 320)


def test_a_mark_is_a_ring_around_its_place():
    picture = np.asarray(marked(seen().square, (0.25, 0.5)))
    changed = np.argwhere((picture != 90).any(2))
    np.testing.assert_allclose(changed.mean(0), [320, 160], atol=1)
    assert (picture[320, 160] == 90).all()
