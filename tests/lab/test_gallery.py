"""The pictures of the documentation: what was annotated, and how panels are laid out."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from lab import gallery


def test_the_mask_fits_the_frames_that_are_shown():
    with Image.open(gallery.OUT / "bunny-mask.png") as mask:
        assert mask.mode == "P"
        assert mask.size == gallery.SIZE
        assert set(np.unique(np.array(mask))) == {0, 1, 2, 3, 4}  # ground, bunny, ears, boulders, slab


@pytest.mark.parametrize(("count", "rows"), [(2, 1), (3, 2)])
def test_panels_stand_in_columns_with_their_titles_above(count, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "OUT", tmp_path)
    red = np.full((20, 40, 3), (255, 0, 0), np.uint8)
    gallery.write([(f"panel {i}", red) for i in range(count)], "panels.jpg", columns=2, part=(10, 5, 30, 20))
    with Image.open(tmp_path / "panels.jpg") as image:
        shown = np.array(image).astype(int)
    assert shown.shape == (
        rows * (15 + gallery.TITLE + gallery.GAP) - gallery.GAP,
        2 * (20 + gallery.GAP) - gallery.GAP,
        3,
    )
    assert np.abs(shown[gallery.TITLE + 7, 10] - (255, 0, 0)).max() < 40
    assert np.abs(shown[-7, -10] - ((255, 0, 0) if count == 2 else (255, 255, 255))).max() < 40


def test_a_frame_is_given_to_the_network_from_minus_one_to_one():
    frame = np.array([[[0, 255, 51]]], np.uint8)
    assert gallery.tensor(frame).flatten().tolist() == pytest.approx([-1, 1, -0.6])
