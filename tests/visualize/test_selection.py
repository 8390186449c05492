"""Overlays paint exactly the selected cells, stronger for higher ranks, and nothing else."""

import numpy as np
import pytest
import torch
from PIL import Image

from pst import PST, Selection, record_selection, use_topk
from pst.visualize import selection_overlay, selection_panels
from pst.visualize.selection import MAGENTA

GREY = 90


def grey(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), (GREY, GREY, GREY))


def selection(tokens: list[int], coarse: tuple[int, int]) -> Selection:
    return Selection(torch.tensor(tokens).view(1, 1, -1), coarse, (2 * coarse[0], 2 * coarse[1]))


def test_exactly_the_selected_cells_are_painted():
    """Token 7 of a 3×4 map is row 1, column 3; token 8 is row 2, column 0."""
    painted = np.asarray(selection_overlay(grey(80, 30), selection([7, 8], (3, 4)), 0))
    expected = np.zeros((30, 80), bool)
    expected[10:20, 60:80] = True
    expected[20:30, 0:20] = True
    np.testing.assert_array_equal((painted != GREY).any(2), expected)


def test_higher_ranks_are_painted_stronger():
    painted = np.asarray(selection_overlay(grey(40, 10), selection([2, 0, 3], (1, 4)), 0)).astype(float)
    distance = np.abs(painted[5, 5::10] - MAGENTA).sum(1)  # of the middle of each of the four cells
    assert distance[2] < distance[0] < distance[3] < distance[1]
    np.testing.assert_array_equal(painted[5, 15], [GREY] * 3)


def test_the_last_rank_is_as_strong_however_many_there_are():
    def last(tokens: list[int]) -> list[int]:
        return np.asarray(selection_overlay(grey(40, 10), selection(tokens, (1, 4)), 0))[5, 35].tolist()

    assert last([0, 3]) == last([0, 1, 3]) == last([0, 1, 2, 3])


def test_one_token_is_painted_as_strongly_as_the_first_of_many():
    alone = np.asarray(selection_overlay(grey(40, 10), selection([2], (1, 4)), 0))
    first = np.asarray(selection_overlay(grey(40, 10), selection([2, 0], (1, 4)), 0))
    np.testing.assert_array_equal(alone[:, 20:30], first[:, 20:30])


def test_cells_of_uneven_sizes_cover_the_picture_without_gap_or_overlap():
    whole = np.asarray(selection_overlay(grey(50, 31), selection(list(range(21)), (3, 7)), 0))
    assert (whole != GREY).any(2).all()
    counts = sum(
        (np.asarray(selection_overlay(grey(50, 31), selection([t], (3, 7)), 0)) != GREY).any(2).astype(int)
        for t in range(21)
    )
    np.testing.assert_array_equal(counts, 1)


def test_head_and_item_pick_their_own_tokens():
    index = torch.tensor([[[0], [1]], [[2], [3]]])  # 2 images, 2 heads, k = 1
    record = Selection(index, (1, 4), (2, 8))
    for item in range(2):
        for head in range(2):
            painted = np.asarray(selection_overlay(grey(40, 10), record, head, item=item))
            cell = 2 * item + head
            np.testing.assert_array_equal(np.flatnonzero((painted[0] != GREY).any(1)) // 10, [cell] * 10)


def test_the_picture_itself_is_left_as_it_is():
    image = grey(8, 8)
    selection_overlay(image, selection([0], (1, 1)), 0)
    assert np.asarray(image).max() == GREY


def test_a_grey_level_picture_becomes_rgb():
    assert selection_overlay(Image.new("L", (8, 8)), selection([0], (1, 1)), 0).mode == "RGB"


def test_panels_show_the_latest_pass_of_every_layer_and_head():
    first, second = selection([0], (1, 2)), selection([1], (1, 2))
    two_heads = Selection(torch.tensor([[[0], [1]]]), (1, 2), (2, 4))
    panels = selection_panels(grey(20, 10), {"a": [first, second], "idle": [], "b": [two_heads]})
    assert [(panel.layer, panel.head) for panel in panels] == [("a", 0), ("b", 0), ("b", 1)]
    painted = [(np.asarray(panel.image)[0] != GREY).any(1) for panel in panels]
    right, left = np.arange(20) >= 10, np.arange(20) < 10
    for found, expected in zip(painted, (right, left, right), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_panels_of_a_real_layer():
    layer = PST(8, 8, 128, depth=2).eval()
    with torch.no_grad(), use_topk(layer, 3), record_selection(layer) as records:
        layer(torch.randn(2, 8, 8, 8), torch.randn(2, 8, 4, 4))
    panels = selection_panels(grey(64, 64), records, item=1)
    assert [(panel.layer, panel.head) for panel in panels] == [
        (f"blocks.{block}.attn", head) for block in range(2) for head in range(2)
    ]
    for panel in panels:
        assert (np.asarray(panel.image) != GREY).any(2).sum() == 3 * 16 * 16


@pytest.mark.parametrize(("head", "item", "message"), [(1, 0, "head must be from 0 to 0, got 1"), (0, 1, "item must")])
def test_an_index_out_of_range_is_named(head, item, message):
    with pytest.raises(IndexError, match=message):
        selection_overlay(grey(8, 8), selection([0], (2, 2)), head, item=item)


def test_a_picture_smaller_than_the_map_is_refused():
    with pytest.raises(ValueError, match="3×8 pixels is smaller than the coarse map of 4×4 cells: enlarge it first"):
        selection_overlay(grey(3, 8), selection([0], (4, 4)), 0)


def test_nothing_recorded_is_refused():
    with pytest.raises(ValueError, match="nothing was recorded: run the model inside record_selection with k > 0"):
        selection_panels(grey(8, 8), {"a": []})


def test_tokens_of_all_windows_are_painted_once_and_unused_slots_not_at_all():
    """Two windows: tokens 1 and 3, and 1 alone. Token 1 is the first of both."""
    record = Selection(torch.tensor([[[[1, 3], [1, -1]]]]), (1, 4), (2, 8))
    painted = np.asarray(selection_overlay(grey(40, 10), record, 0))
    expected = np.asarray(selection_overlay(grey(40, 10), selection([1, 3], (1, 4)), 0))
    np.testing.assert_array_equal(painted, expected)
