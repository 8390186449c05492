"""Marks in the first picture, carried to the others, and where a position looks."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pst.explore import carrying
from pst.explore.carrying import Carrying, show_carried, show_unmarked
from pst.explore.clip import Clip
from pst.explore.explorer import Explorer, Session, Wanted
from pst.explore.marks import Marks, draw_marks
from pst.explore.models import PROPAGATION, Choice
from pst.explore.view import Asked
from tiny_clips import moving, patches


@pytest.fixture
def clip(monkeypatch):
    monkeypatch.setattr(carrying, "EDGE", 64)
    frames = tuple(map(Image.fromarray, moving(4).frames))
    return Clip(tuple(map(str, range(4))), frames, frames[0].size)


def test_labels_follow_what_moves(clip):
    truth = moving(4)
    marks = Marks(mask=Image.fromarray(truth.masks[0]))
    carried = Carrying(clip, marks, patches, 8)
    seen = []
    carried.picture(3, lambda done, of: seen.append((done, of)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    mask = carried._found[3][0]
    assert (mask == truth.masks[3]).mean() > 0.95
    assert len(carried.seconds) == 3
    carried.picture(2)
    assert len(carried.seconds) == 3  # nothing is carried twice


def test_nothing_marked_is_refused(clip):
    with pytest.raises(ValueError, match="nothing is marked"):
        Carrying(clip, Marks(), patches, 8)


@pytest.mark.parametrize("k", [0, 8])
def test_a_position_looks_at_where_it_came_from(clip, k):
    truth = moving(4)
    carried = Carrying(clip, Marks(mask=Image.fromarray(truth.masks[0])), patches, k)
    x, y = truth.centre[3]
    (weights, tokens), cells = carried.look(3, (x / 64, y / 48)), carried.cells
    assert weights.sum().item() == pytest.approx(1, abs=1e-4)
    assert len(tokens) == k
    assert all(0 <= token < cells[0] * cells[1] for token in tokens)
    if k:
        row, column = divmod(int(weights.argmax()), weights.shape[1])
        found = column / weights.shape[1] * 64, row / weights.shape[0] * 48
        np.testing.assert_allclose(found, truth.centre[0], atol=4)


def test_the_slider_of_k_ends_at_the_coarse_positions(clip):
    session = Session(clip, Marks(mask=Image.fromarray(moving(4).masks[0])))
    explorer = Explorer([Choice(PROPAGATION, None)], patches)
    explorer.show(session, Wanted(PROPAGATION, Asked(8), "", 0, 1))
    rows, columns = Carrying(clip, session.marks, patches, 8).cells
    assert session.controls is not None
    assert session.controls.topk == rows * columns < 400


def test_pictures_with_and_without_a_position(clip):
    marks = Marks(boxes=[((0.05, 0.1), (0.3, 0.4))])
    coarse, fine = (Carrying(clip, marks, patches, k) for k in (0, 8))
    plain = show_carried(coarse, fine, 8, marks, 2, None, None)
    assert plain.attention is None
    assert plain.captions[0].startswith("k = 0:")
    assert plain.captions[2] == "First picture: 1 box."
    asked = show_carried(coarse, fine, 8, marks, 2, (0.3, 0.3), None)
    assert asked.attention is not None
    assert "8 of" in asked.captions[2]
    assert asked.captions[2].endswith("selected. The strongest pink has the highest score.")
    marks.click((0.5, 0.5), "box")
    for place in (None, (0.3, 0.3)):
        begun = show_carried(coarse, fine, 8, marks, 2, place, None)
        assert begun.captions[2].endswith(". Now click on the opposite corner of the box.")
    assert np.any(np.asarray(asked.tokens) != np.asarray(draw_marks(clip, marks)))


def test_every_picture_says_where_to_click_while_nothing_is_marked(clip):
    marks = Marks()
    captions = show_unmarked(clip, marks, 2).captions
    assert captions[0] == captions[1] == "Nothing to carry yet: mark it in the first picture, below."
    assert captions[2] == "First picture: click on it to mark what is to be carried."
    marks.click((0.1, 0.1), "box")
    begun = show_unmarked(clip, marks, 2).captions
    assert begun[:2] == captions[:2]
    assert begun[2] == "First picture: now click on the opposite corner of the box."
